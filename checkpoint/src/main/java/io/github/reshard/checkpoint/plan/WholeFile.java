package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import java.util.List;

/**
 * A file of the source as it is: all of it is payload.
 *
 * @param source index into {@link ReshardPlan#sources()}
 */
public record WholeFile(int source) implements Recipe {
  @Override
  public List<ByteSegment> skeleton(
      ReshardPlan plan, SourceStore store, int target, List<Integer> crcs) {
    return List.of();
  }

  @Override
  public boolean isExecutable(ReshardPlan plan) {
    return plan.sources().get(source).stat().executable();
  }
}
