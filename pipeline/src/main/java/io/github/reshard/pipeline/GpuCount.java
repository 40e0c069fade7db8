package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFacts;
import java.io.IOException;

/**
 * Turns a number of GPUs, as {@code WORLD_SIZE} counts them, into data-parallel ranks: every GPU
 * writes one optimizer file, so that the GPUs of one data-parallel rank are as many as the
 * checkpoint has model-parallel ranks.
 */
final class GpuCount {
  private GpuCount() {}

  /**
   * The data-parallel ranks that {@code gpus} of them make for {@code source}.
   *
   * @throws RefusedException if that is not a whole number
   */
  static int dataParallelRanks(Source source, int gpus) throws IOException {
    int each = Math.max(1, source.files().optimizers().size());
    if (gpus % each != 0) {
      throw new RefusedException(
          source.location(),
          "a data-parallel rank of this checkpoint takes %s, and %d GPUs cannot be divided by that. Use %d or %d, or give the data-parallel ranks with --targetWorldSize."
              .formatted(
                  degrees(source.facts(), each),
                  gpus,
                  Math.max(1, gpus / each) * each,
                  (gpus / each + 1) * each));
    }
    return gpus / each;
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
