package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.parallel.ExpertTarget;
import io.github.reshard.checkpoint.parallel.PipelineScript;
import io.github.reshard.checkpoint.parallel.PipelineTarget;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * The degrees of parallelism that a target has, beside the data-parallel one.
 *
 * @param tensor the tensor-parallel one, if it is not to stay as saved
 * @param experts how experts are divided, if not as saved
 * @param pipeline the stages of the pipeline, if they are not to stay as saved
 */
public record TargetDegrees(
    Optional<TensorHints> tensor,
    Optional<ExpertTarget> experts,
    Optional<PipelineTarget> pipeline) {
  /** All as saved. */
  public static final TargetDegrees AS_SAVED = new TargetDegrees(Optional.empty());

  /** All but the tensor-parallel one as saved. */
  public TargetDegrees(Optional<TensorHints> tensor) {
    this(tensor, Optional.empty(), Optional.empty());
  }

  /** One model-parallel rank that has all, to be compared with another one. */
  public static TargetDegrees joined(boolean tensor, boolean pipeline) {
    return new TargetDegrees(
        tensor
            ? Optional.of(
                new TensorHints(
                    1, Optional.empty(), OptionalInt.empty(), OptionalInt.empty(), true))
            : Optional.empty(),
        Optional.empty(),
        pipeline
            ? Optional.of(new PipelineTarget(1, Optional.empty(), PipelineScript.NOT_SAID))
            : Optional.empty());
  }

  /** Whether all stay as saved. */
  public boolean isAsSaved() {
    return tensor.isEmpty() && experts.isEmpty() && pipeline.isEmpty();
  }

  /** The expert-parallel size, if it is not to stay as saved. */
  OptionalInt expertSize() {
    return experts.isPresent() ? OptionalInt.of(experts.get().size()) : OptionalInt.empty();
  }

  /** What the output is made as. */
  public String form() {
    List<String> form = new ArrayList<>();
    tensor.ifPresent(of -> form.add("tensor-parallel size " + of.ranks()));
    experts.ifPresent(of -> form.add("expert-parallel size " + of.size()));
    pipeline.ifPresent(target -> form.add("pipeline stages " + target.stages()));
    return String.join(", ", form);
  }
}
