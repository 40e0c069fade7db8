package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ParamId;
import io.github.reshard.checkpoint.plan.PartitionedModel;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.util.HashMap;
import java.util.Map;

/** Finds a parameter in a plan by its identity. Made once for each plan that a worker meets. */
final class PlanIndex {
  /**
   * Where a parameter is in a plan.
   *
   * @param model index of its model
   * @param parameter its index there
   */
  record Place(int model, int parameter) {}

  private final ReshardPlan plan;
  private final Map<ParamId, Place> places = new HashMap<>();

  private PlanIndex(ReshardPlan plan) {
    this.plan = plan;
    for (int m = 0; m < plan.models().size(); m++) {
      PartitionedModel model = plan.models().get(m);
      for (int p = 0; p < model.parameters().size(); p++) {
        places.put(model.id(plan.checkpoint(), p), new Place(m, p));
      }
    }
  }

  /** {@code last} if it is of {@code plan}, else a new one. */
  @SuppressWarnings(
      "ReferenceEquality") // the same object is what tells; comparing two plans costs more than an
  // index
  static PlanIndex of(ReshardPlan plan, PlanIndex last) {
    return last != null && last.plan == plan ? last : new PlanIndex(plan);
  }

  Place find(ParamId id) {
    Place place = places.get(id);
    if (place == null) {
      throw new IllegalArgumentException("the plan has no parameter " + id);
    }
    return place;
  }
}
