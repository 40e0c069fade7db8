package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFacts;
import java.io.IOException;
import java.util.Optional;

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
   * @param pipeline stages of the target, if they are not the source's
   * @param tensor tensor-parallel ranks of the target, if they are not the source's
   * @throws RefusedException if that is not a whole number
   */
  static int dataParallelRanks(
      Source source, int gpus, Optional<Integer> pipeline, Optional<Integer> tensor)
      throws IOException {
    int saved = Math.max(1, source.files().optimizers().size());
    boolean asSaved = pipeline.isEmpty() && tensor.isEmpty();
    int ofTensor =
        asSaved ? 1 : tensor.orElse(Math.max(1, source.facts().parallelism().tensorDegree()));
    int ofPipeline =
        asSaved ? 1 : pipeline.orElse(Math.max(1, source.facts().parallelism().pipelineDegree()));
    int each = asSaved ? saved : ofPipeline * ofTensor;
    if (gpus % each != 0) {
      throw new RefusedException(
          source.location(),
          "a data-parallel rank takes %s, and %d GPUs cannot be divided by that. Use %d or %d, or give the data-parallel ranks with --targetWorldSize."
              .formatted(
                  asSaved ? degrees(source.facts(), each) : degrees(each, ofPipeline, ofTensor),
                  gpus,
                  Math.max(1, gpus / each) * each,
                  (gpus / each + 1) * each));
    }
    return gpus / each;
  }

  /** {@code 2 pipeline-parallel x 2 tensor-parallel = 4 GPUs}, as far as it is known. */
  private static String degrees(CheckpointFacts facts, int each) {
    int pipeline = Math.max(1, facts.parallelism().pipelineDegree());
    int tensor = Math.max(1, facts.parallelism().tensorDegree());
    if (pipeline * tensor != each) {
      return each + " GPUs (model-parallel)";
    }
    return degrees(each, pipeline, tensor);
  }

  private static String degrees(int each, int pipeline, int tensor) {
    return "%d GPUs (%d pipeline-parallel x %d tensor-parallel)".formatted(each, pipeline, tensor);
  }
}
