package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ParamId;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.Serializable;

/**
 * The keys under which what concerns a parameter is grouped. What a runner does for each key of a
 * GroupByKey (the DirectRunner makes a bundle of it) costs more than what there is to do for a
 * parameter, so some hundred parameters share a key.
 *
 * @param keys how many keys there are
 */
record ParameterKeys(int keys) implements Serializable {
  private static final int PARAMETERS_PER_KEY = 256;

  static ParameterKeys of(ReshardPlan plan) {
    int parameters = plan.models().stream().mapToInt(model -> model.parameters().size()).sum();
    return new ParameterKeys(Math.max(1, parameters / PARAMETERS_PER_KEY));
  }

  int of(ParamId id) {
    // Of all things that identify a parameter only those whose hash no Java release may change.
    int hash = 31 * (31 * id.mpRank() + id.expertRank()) + id.name().hashCode();
    return Math.floorMod(hash, keys);
  }
}
