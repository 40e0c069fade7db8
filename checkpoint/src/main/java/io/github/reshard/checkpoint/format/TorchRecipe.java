package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.plan.Recipe;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.List;
import java.util.Optional;

/** A torch file that is made from one of the source. */
public interface TorchRecipe extends Recipe {
  /**
   * The index in {@link ReshardPlan#sources()} of the file that says everything that is not
   * partitioned.
   */
  int template();

  /**
   * What the file says. A pure function: a worker asks it again when it finishes the file.
   *
   * @param template the file of {@link #template()}
   * @param models {@link ReshardPlan#models()}
   * @param targetWorldSize data-parallel ranks of the output
   */
  Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize);

  /**
   * Whether the file is the template again if the number of ranks stays, and so keeps its
   * serialization id.
   */
  default boolean isOfSameKind() {
    return true;
  }

  /** How the optimizer file that it makes is read; empty if it makes a file of another kind. */
  default Optional<OptimizerValues.Reading> optimizer() {
    return Optional.empty();
  }

  @Override
  default List<ByteSegment> skeleton(
      ReshardPlan plan, SourceStore store, int target, List<Integer> crcs) throws IOException {
    TorchFile template;
    try (RangedFile source = store.open(plan.sources().get(template()).stat())) {
      template = TorchFile.read(source);
    }
    TargetFile file = plan.targets().get(target);
    return TorchTarget.plan(
            template,
            file.name(),
            this,
            plan.models(),
            plan.sourceWorldSize(),
            plan.targetWorldSize())
        .skeleton(file, crcs);
  }
}
