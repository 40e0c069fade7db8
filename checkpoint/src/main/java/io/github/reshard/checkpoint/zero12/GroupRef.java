package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.state.PartitionedModel;
import java.io.Serializable;
import java.util.List;

/**
 * A param group of a file among all partitioned models.
 *
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param group the param group in that model
 * @param from which holder's the template is, 0 unless tensor-parallel ranks, stages or
 *     expert-parallel ranks have parts of the parameters
 * @param to which holder's the file is
 */
public record GroupRef(int model, int group, int from, int to) implements Serializable {
  /** A group of parameters that one model-parallel rank has. */
  public GroupRef(int model, int group) {
    this(model, group, 0, 0);
  }

  PartitionedModel in(List<PartitionedModel> models) {
    return models.get(model);
  }

  FlatLayout source(List<PartitionedModel> models) {
    return FlatLayout.of(in(models).source().ofHolder(from));
  }

  FlatLayout target(List<PartitionedModel> models) {
    return FlatLayout.of(in(models).target().ofHolder(to));
  }
}
