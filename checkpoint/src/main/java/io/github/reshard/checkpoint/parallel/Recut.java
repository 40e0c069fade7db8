package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.state.LocalTensor;
import java.util.List;
import java.util.Optional;

/**
 * A parameter at two numbers of tensor-parallel ranks.
 *
 * @param shape of the full tensor, without rows behind the end of a vocabulary
 * @param source by rank what the source has
 * @param target by rank what the target has
 * @param sharing how the ranks share it
 * @param cut how the target's ranks cut it, if that is by widths along a dimension
 */
public record Recut(
    List<Long> shape,
    List<LocalTensor> source,
    List<LocalTensor> target,
    Sharing sharing,
    Optional<TensorCut> cut) {
  /** How tensor-parallel ranks share a parameter. */
  public enum Sharing {
    /** Each has a part. */
    CUT,
    /** Each has all of it. */
    REPLICATED,
    /** Each has all of it, and DeepSpeed would take the mean. */
    AVERAGED
  }

  /** A parameter that is not cut by widths. */
  Recut(List<Long> shape, List<LocalTensor> source, List<LocalTensor> target, Sharing sharing) {
    this(shape, source, target, sharing, Optional.empty());
  }

  public Recut {
    shape = List.copyOf(shape);
    source = List.copyOf(source);
    target = List.copyOf(target);
  }
}
