package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.lang.ref.WeakReference;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ConcurrentHashMap;

/** The plans that this process made and still holds: its workers need not decode another copy. */
final class PlansHere {
  private static final Map<String, WeakReference<ReshardPlan>> BY_RESHARD =
      new ConcurrentHashMap<>();

  private PlansHere() {}

  /** Takes note of the plan of the reshard {@code key}. */
  static void add(String key, ReshardPlan plan) {
    BY_RESHARD.values().removeIf(known -> known.get() == null);
    BY_RESHARD.put(key, new WeakReference<>(plan));
  }

  /** The plan of the reshard {@code key}, if it was made here. */
  static Optional<ReshardPlan> find(String key) {
    WeakReference<ReshardPlan> known = BY_RESHARD.get(key);
    return known == null ? Optional.empty() : Optional.ofNullable(known.get());
  }
}
