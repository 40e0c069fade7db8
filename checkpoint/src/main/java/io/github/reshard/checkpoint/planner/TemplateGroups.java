package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpCheckpoint;
import io.github.reshard.checkpoint.dcp.DcpKeys;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Collectors;

/**
 * The param groups of a distributed checkpoint, as a template has them.
 *
 * @param keys where everything is
 * @param objects all of its objects
 * @param dcp the distributed checkpoint
 */
record TemplateGroups(DcpKeys keys, Map<String, PyObject> objects, DcpCheckpoint dcp) {
  private static final String STEP = "step";
  private static final String PARAMS = "params";

  private static Map<Integer, List<String>> namesByGroup(ReshardPlan plan) {
    Map<Integer, List<String>> names = new TreeMap<>();
    for (PartitionedModel model : plan.models()) {
      if (!model.states().isEmpty() && model.states().get(0).containsKey(States.FROZEN)) {
        continue;
      }
      for (Parameter parameter : model.parameters()) {
        names.computeIfAbsent(parameter.group(), g -> new ArrayList<>()).add(parameter.name());
      }
    }
    return names;
  }

  /**
   * A param group.
   *
   * @param options of those that the template has, what the distributed checkpoint has
   * @param step how many steps were made, if it counts them
   * @param stepKey the key of a step, or null
   */
  record Found(Map<String, PyObject> options, OptionalDouble step, String stepKey) {}

  /**
   * All groups.
   *
   * @param groups the template's
   * @throws RefusedException if the groups are others, or parameters of one do not agree
   */
  List<Found> find(ReshardPlan plan, List<SavedOptimizer.Group> groups, SourceStore store)
      throws IOException {
    Map<Integer, List<String>> names = namesByGroup(plan);
    List<Found> all = new ArrayList<>();
    for (int g = 0; g < groups.size(); g++) {
      List<String> ofGroup = names.getOrDefault(g, List.of());
      all.add(
          ofGroup.isEmpty()
              ? new Found(Map.of(), OptionalDouble.empty(), null)
              : find(groups.get(g), ofGroup, store));
    }
    return all;
  }

  private Found find(SavedOptimizer.Group group, List<String> names, SourceStore store)
      throws IOException {
    Map<String, PyObject> options = new LinkedHashMap<>();
    for (String option : group.options().keySet()) {
      option(names, option).ifPresent(value -> options.put(option, value));
    }
    for (String needed : List.of("lr", "weight_decay")) {
      if (group.options().containsKey(needed) && !options.containsKey(needed)) {
        throw new RefusedException(
            keys.where(),
            "has no '%s' of the param group with %s.".formatted(needed, names.get(0)));
      }
    }
    OptionalDouble step = step(store, names);
    String stepKey = keys.state(names.get(0), STEP);
    if (group.step().isPresent() && step.isEmpty()) {
      throw new RefusedException(
          keys.where(),
          "has no '%s': how many steps the optimizer has made is not said.".formatted(stepKey));
    }
    return new Found(options, step, step.isPresent() ? stepKey : null);
  }

  private OptionalDouble step(SourceStore store, List<String> names) throws IOException {
    Map<String, Double> steps =
        StepValues.read(
            store,
            dcp,
            names.stream()
                .map(name -> keys.state(name, STEP))
                .filter(key -> keys.tensor(key).isPresent())
                .collect(Collectors.toCollection(TreeSet::new)));
    OptionalDouble common = OptionalDouble.empty();
    for (String name : names) {
      String key = keys.state(name, STEP);
      if (!steps.containsKey(key)) {
        continue;
      }
      double step = steps.get(key);
      if (common.isPresent() && common.getAsDouble() != step) {
        throw new RefusedException(
            keys.where(),
            "'%s' is %s, that of %s in the same param group %s. DeepSpeed counts the steps of a group once."
                .formatted(key, step, names.get(0), common.getAsDouble()));
      }
      common = OptionalDouble.of(step);
    }
    return common;
  }

  /** The option of the group that these parameters are in. */
  private Optional<PyObject> option(List<String> names, String option) {
    if (!keys.isFlat(names.get(0))) {
      return Optional.ofNullable(objects.get(keys.option(groupOf(names), option)));
    }
    PyObject first = objects.get(keys.option(names.get(0), option));
    for (String name : names) {
      PyObject other = objects.get(keys.option(name, option));
      if ((first == null) != (other == null)
          || (first != null
              && !Arrays.equals(PickleWriter.write(first, 2), PickleWriter.write(other, 2)))) {
        throw new RefusedException(
            keys.where(),
            "%s and %s have another '%s', and are in one param group in the template."
                .formatted(names.get(0), name, option));
      }
    }
    return Optional.ofNullable(first);
  }

  /** The number of the group of exactly these parameters. */
  private String groupOf(List<String> names) {
    for (int g = 0; objects.containsKey(keys.option(Integer.toString(g), PARAMS)); g++) {
      String key = keys.option(Integer.toString(g), PARAMS);
      if (!(objects.get(key) instanceof PyList list)) {
        throw new RefusedException(keys.where(), "'%s' is no list of names.".formatted(key));
      }
      Set<String> found = new HashSet<>();
      list.items().forEach(item -> found.add(item instanceof PyStr s ? s.value() : ""));
      if (found.contains(names.get(0))) {
        if (!found.equals(new HashSet<>(names))) {
          throw new RefusedException(
              keys.where(),
              "param group %d has %d parameters, the template's with %s has %d. Make the template with the same param groups."
                  .formatted(g, found.size(), names.get(0), names.size()));
        }
        return Integer.toString(g);
      }
    }
    throw new RefusedException(keys.where(), "no param group lists %s.".formatted(names.get(0)));
  }
}
