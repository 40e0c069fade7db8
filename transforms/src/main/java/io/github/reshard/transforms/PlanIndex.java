package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.TargetFile;
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
  private final int[] sourceKeys;
  private final int[] targetKeys;

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
    this.sourceKeys =
        fileKeys(plan, plan.sources().stream().mapToLong(file -> file.stat().bytes()).toArray());
    this.targetKeys =
        fileKeys(plan, plan.targets().stream().mapToLong(TargetFile::bytes).toArray());
  }

  /**
   * Of each file the first of those that it shares a key with: neighbours that together are no
   * longer than a part. What a runner does for each key costs more than to move a small file.
   */
  private static int[] fileKeys(ReshardPlan plan, long[] bytes) {
    int[] keys = new int[bytes.length];
    long together = 0;
    for (int file = 0; file < bytes.length; file++) {
      boolean joins = file > 0 && bytes[file] <= plan.partBytes() - together;
      keys[file] = joins ? keys[file - 1] : file;
      together = joins ? together + bytes[file] : bytes[file];
    }
    return keys;
  }

  /** The key that source file {@code file} shares with others. */
  int sourceKey(int file) {
    return sourceKeys[file];
  }

  /** The key that target file {@code file} shares with others. */
  int targetKey(int file) {
    return targetKeys[file];
  }

  /** The source files that have a key. */
  List<Integer> sourcesOf(int key) {
    return filesOf(sourceKeys, key);
  }

  /** The target files that have a key. */
  List<Integer> targetsOf(int key) {
    return filesOf(targetKeys, key);
  }

  private static List<Integer> filesOf(int[] keys, int key) {
    List<Integer> files = new ArrayList<>();
    for (int file = key; file < keys.length && keys[file] == key; file++) {
      files.add(file);
    }
    return files;
  }

  /** The part under whose key what goes to {@code part} is written: files that share a key do. */
  PartId keyOf(PartId part) {
    int key = part.source() ? sourceKey(part.file()) : targetKey(part.file());
    return part.part() > 0 ? part : new PartId(part.source(), 0, key);
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
