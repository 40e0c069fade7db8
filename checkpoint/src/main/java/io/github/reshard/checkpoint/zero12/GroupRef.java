package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.state.PartitionedModel;
import java.io.Serializable;
import java.util.List;

/**
 * A param group among all partitioned models.
 *
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param group the param group in that model
 */
public record GroupRef(int model, int group) implements Serializable {
  PartitionedModel in(List<PartitionedModel> models) {
    return models.get(model);
  }

  FlatLayout source(List<PartitionedModel> models) {
    return FlatLayout.of(in(models).source());
  }

  FlatLayout target(List<PartitionedModel> models) {
    return FlatLayout.of(in(models).target());
  }
}
