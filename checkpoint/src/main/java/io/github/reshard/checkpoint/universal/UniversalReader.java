package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.format.CheckpointReader;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.zero12.FlatReader;
import io.github.reshard.checkpoint.zero3.ShardedReader;
import java.io.IOException;
import java.util.List;

/**
 * Reads a Universal Checkpoint as if one rank had saved it, under the tag that it was made of, and
 * without what its files do not prove: they were put together of files that other names prove
 * nothing of.
 */
public final class UniversalReader implements CheckpointReader {
  private final CheckpointReader ofOneRank;

  /**
   * @param store reads it
   * @param files as {@link UniversalSource} sees them
   */
  public UniversalReader(SourceStore store, CheckpointFiles files) {
    this.ofOneRank =
        files.rankModels().isEmpty()
            ? new FlatReader(store, files)
            : new ShardedReader(store, files);
  }

  @Override
  public TrainingState read(int targetWorldSize) throws IOException {
    TrainingState read = ofOneRank.read(targetWorldSize);
    return read.composed(
        UniversalFiles.nativeTag(read.tag()),
        List.of(
            "made of a Universal Checkpoint: that each of its files is of the parameter whose"
                + " folder it lies in is proven by shapes, and of the masters by the module's"
                + " weights where it has these"));
  }
}
