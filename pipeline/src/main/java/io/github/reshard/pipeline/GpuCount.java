package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.zero.CheckpointFacts;
import io.github.reshard.checkpoint.zero.CheckpointFiles;
import io.github.reshard.pipeline.storage.Stores;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Optional;

/**
 * Turns a number of GPUs, as {@code WORLD_SIZE} counts them, into data-parallel ranks: every GPU
 * writes one optimizer file, so that the GPUs of one data-parallel rank are as many as the
 * checkpoint has model-parallel ranks.
 */
public final class GpuCount {
  private GpuCount() {}

  /**
   * The data-parallel ranks that {@code gpus} of them make for the checkpoint in {@code --input}.
   *
   * @throws RefusedException if that is not a whole number
   */
  public static int dataParallelRanks(ReshardOptions options, int gpus) {
    SourceStore store = Stores.source(options.getInput(), options);
    try {
      if (ReshardPipeline.userShards(store, options).isPresent()) {
        return gpus;
      }
      CheckpointFiles files =
          CheckpointFiles.discover(
              store, Stores.directory(options.getInput()), Optional.ofNullable(options.getTag()));
      int each = files.optimizers().size();
      if (each > 1 && gpus % each != 0) {
        throw new RefusedException(
            options.getInput(),
            "a data-parallel rank of this checkpoint takes %s, and %d GPUs cannot be divided by that. Use %d or %d, or give the data-parallel ranks with --targetWorldSize."
                .formatted(
                    degrees(CheckpointFacts.read(store, files), each),
                    gpus,
                    Math.max(1, gpus / each) * each,
                    (gpus / each + 1) * each));
      }
      return each > 1 ? gpus / each : gpus;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** {@code 2 pipeline-parallel x 2 tensor-parallel = 4 GPUs}, as far as it is known. */
  private static String degrees(CheckpointFacts facts, int each) {
    int pipeline = Math.max(1, facts.pipelineDegree());
    int tensor = Math.max(1, facts.tensorDegree());
    if (pipeline * tensor != each) {
      return each + " GPUs (model-parallel)";
    }
    return "%d GPUs (%d pipeline-parallel x %d tensor-parallel)".formatted(each, pipeline, tensor);
  }
}
