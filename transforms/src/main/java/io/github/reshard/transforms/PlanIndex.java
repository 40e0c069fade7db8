package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.PartitionedModel;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Finds a parameter in a plan by its identity. Made once for each plan that a worker meets. */
final class PlanIndex {
  /**
   * Where a parameter is in a plan.
   *
   * @param model index of its model
   * @param parameter its index there
   * @param ordinal its number among the parameters of all models, in their order
   */
  record Place(int model, int parameter, int ordinal) {}

  private final ReshardPlan plan;
  private final Map<ParamId, Place> places = new HashMap<>();
  private final List<Place> inOrder = new ArrayList<>();

  private PlanIndex(ReshardPlan plan) {
    this.plan = plan;
    for (int m = 0; m < plan.models().size(); m++) {
      PartitionedModel model = plan.models().get(m);
      for (int p = 0; p < model.parameters().size(); p++) {
        Place place = new Place(m, p, inOrder.size());
        inOrder.add(place);
        places.put(model.id(plan.checkpoint(), p), place);
      }
    }
  }

  static PlanIndex of(ReshardPlan plan) {
    return new PlanIndex(plan);
  }

  Place find(ParamId id) {
    Place place = places.get(id);
    if (place == null) {
      throw new IllegalArgumentException("the plan has no parameter " + id);
    }
    return place;
  }

  ParameterKeys keys() {
    return ParameterKeys.of(inOrder.size());
  }

  /** Of the parameters that share a key, see {@link ParameterKeys}. */
  List<Place> placesOf(int key) {
    int first = Math.min(inOrder.size(), keys().first(key));
    return inOrder.subList(first, Math.min(inOrder.size(), keys().first(key + 1)));
  }

  /** Which parameter has a number. */
  ParamId id(int ordinal) {
    Place place = inOrder.get(ordinal);
    return plan.models().get(place.model()).id(plan.checkpoint(), place.parameter());
  }

  /** Of every parameter, by its number. */
  List<Place> places() {
    return inOrder;
  }
}
