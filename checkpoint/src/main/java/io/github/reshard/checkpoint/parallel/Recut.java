package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.state.LocalTensor;
import java.util.List;

/**
 * A parameter at two numbers of tensor-parallel ranks.
 *
 * @param shape of the full tensor, without rows behind the end of a vocabulary
 * @param source by rank what the source has
 * @param target by rank what the target has
 * @param sharing how the ranks share it
 */
public record Recut(
    List<Long> shape, List<LocalTensor> source, List<LocalTensor> target, Sharing sharing) {
  /** How tensor-parallel ranks share a parameter. */
  public enum Sharing {
    /** Each has a part. */
    CUT,
    /** Each has all of it. */
    REPLICATED,
    /** Each has all of it, and DeepSpeed would take the mean. */
    AVERAGED
  }

  public Recut {
    shape = List.copyOf(shape);
    source = List.copyOf(source);
    target = List.copyOf(target);
  }
}
