package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.format.CheckpointReader;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.template.Foreign;
import java.io.IOException;
import java.util.Optional;
import java.util.function.IntFunction;

/**
 * A checkpoint that was found, of whatever format.
 *
 * @param store reads it
 * @param files which files there are, or of which it is seen as if it were made
 * @param folder the directory that holds its files
 * @param reader reads it
 * @param writer for a ZeRO stage, or {@link
 *     io.github.reshard.checkpoint.deepspeed.ZeroStage#AS_SAVED}, writes what its runs load
 * @param oddity what is unusual about it, if it is read as if one rank had saved it
 * @param bare of shards that were saved one by one, what they are
 * @param foreign of a checkpoint of another trainer, what it offers; its writer writes nothing
 */
public record Found(
    SourceStore store,
    CheckpointFiles files,
    String folder,
    CheckpointReader reader,
    IntFunction<CheckpointWriter> writer,
    Optional<String> oddity,
    Optional<Bare> bare,
    Optional<Foreign> foreign) {
  /** One of DeepSpeed's, or of what is seen as one of these. */
  public Found(
      SourceStore store,
      CheckpointFiles files,
      String folder,
      CheckpointReader reader,
      IntFunction<CheckpointWriter> writer,
      Optional<String> oddity,
      Optional<Bare> bare) {
    this(store, files, folder, reader, writer, oddity, bare, Optional.empty());
  }

  /**
   * Shards that were saved one by one, without a tag.
   *
   * @param pattern their names, with {@code *} for the rank
   * @param ranks how many there are
   */
  public record Bare(String pattern, int ranks) {}

  /**
   * The same for several plans: metadata is read once for all numbers of ranks that it is the same
   * for, and kept in memory as long as this is.
   */
  public Found readOnce() {
    return new Found(store, files, folder, new ReadOnce(reader), writer, oddity, bare, foreign);
  }

  /**
   * Plans its reshard; nothing is written.
   *
   * @param stage the ZeRO stage, or {@link
   *     io.github.reshard.checkpoint.deepspeed.ZeroStage#AS_SAVED}
   * @throws io.github.reshard.checkpoint.RefusedException if it is not sound
   */
  public ReshardPlan plan(int targetWorldSize, int stage, long partBytes) throws IOException {
    return writer
        .apply(stage)
        .plan(reader.read(targetWorldSize), new Target(targetWorldSize, partBytes));
  }
}
