package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.format.CheckpointReader;
import io.github.reshard.checkpoint.format.TrainingState;
import java.io.IOException;

/** Reads a checkpoint again only if the number of ranks that it is read for makes a difference. */
final class ReadOnce implements CheckpointReader {
  private final CheckpointReader reader;
  private TrainingState last;

  ReadOnce(CheckpointReader reader) {
    this.reader = reader;
  }

  @Override
  public TrainingState read(int targetWorldSize) throws IOException {
    if (last == null || !last.forAnySize()) {
      last = reader.read(targetWorldSize);
    }
    return last;
  }
}
