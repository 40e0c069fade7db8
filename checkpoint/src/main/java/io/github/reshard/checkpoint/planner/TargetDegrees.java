package io.github.reshard.checkpoint.planner;

import java.util.Optional;

/**
 * The degrees of parallelism that a target has, beside the data-parallel one.
 *
 * @param tensor the tensor-parallel one, if it is not to stay as saved
 */
public record TargetDegrees(Optional<TensorHints> tensor) {
  /** All as saved. */
  public static final TargetDegrees AS_SAVED = new TargetDegrees(Optional.empty());

  /** Whether all stay as saved. */
  public boolean isAsSaved() {
    return tensor.isEmpty();
  }

  /** What the output is made as. */
  public String form() {
    return tensor.map(of -> "tensor-parallel size " + of.ranks()).orElse("");
  }
}
