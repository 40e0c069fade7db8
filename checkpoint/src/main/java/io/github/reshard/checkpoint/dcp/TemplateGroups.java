package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.SavedOptimizer;
import io.github.reshard.checkpoint.deepspeed.Scalar;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.Found;
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

  /**
   * A scalar of a param group.
   *
   * @param key where its first parameter has it
   * @param value what all of its parameters have
   */
  record FoundScalar(String key, Scalar value) {}

  /**
   * A param group.
   *
   * @param options of those that the template has, what the distributed checkpoint has
   * @param step how many steps were made, if it counts them
   * @param scalars of those that the template has, what the distributed checkpoint has
   */
  record Found(
      Map<String, PyObject> options, OptionalDouble step, Map<String, FoundScalar> scalars) {}

  /** The parameters of a param group, and the names of their states. */
  private record Members(List<String> names, Set<String> states) {}

  private static Map<Integer, Members> members(ReshardPlan plan) {
    Map<Integer, Members> members = new TreeMap<>();
    for (PartitionedModel model : plan.models()) {
      if (model.isFrozen()) {
        continue;
      }
      for (int p = 0; p < model.parameters().size(); p++) {
        Parameter parameter = model.parameters().get(p);
        Members of =
            members.computeIfAbsent(
                parameter.group(), g -> new Members(new ArrayList<>(), new HashSet<>()));
        of.names().add(parameter.name());
        of.states().addAll(model.statesOf(p).keySet());
        of.states().remove(States.MASTER);
      }
    }
    return members;
  }

  /**
   * All groups.
   *
   * @param groups the template's
   * @throws RefusedException if the groups are others, or parameters of one do not agree
   */
  List<Found> find(ReshardPlan plan, List<SavedOptimizer.Group> groups, SourceStore store)
      throws IOException {
    Map<Integer, Members> members = members(plan);
    List<Found> all = new ArrayList<>();
    for (int g = 0; g < groups.size(); g++) {
      Members of = members.get(g);
      all.add(
          of == null
              ? new Found(Map.of(), OptionalDouble.empty(), Map.of())
              : find(groups.get(g), of, store));
    }
    return all;
  }

  private Found find(SavedOptimizer.Group group, Members members, SourceStore store)
      throws IOException {
    Map<String, FoundScalar> scalars = new LinkedHashMap<>();
    Set<String> wanted = new TreeSet<>(group.scalars().keySet());
    wanted.add(STEP);
    for (String name : wanted) {
      Scalar of = group.scalars().get(name);
      Optional<FoundScalar> found = scalar(store, members.names(), name);
      found.ifPresent(scalar -> scalars.put(name, scalar));
      boolean isStepAsNumber = name.equals(STEP) && !(of instanceof Scalar.OfTensor);
      if (of != null
          && !isStepAsNumber
          && (found.isEmpty() || !of.isOfTypeOf(found.get().value()))) {
        throw new RefusedException(
            keys.where(),
            "'%s' is %s, and the optimizer of the template keeps %s there. Make the template with the same optimizer."
                .formatted(
                    keys.state(members.names().get(0), name),
                    found.isEmpty() ? "not there" : found.get().value().type(),
                    of.type()));
      }
    }
    Map<String, PyObject> options = options(group, members);
    OptionalDouble step =
        scalars.containsKey(STEP)
            ? scalars.get(STEP).value().number()
            : option(members.names(), STEP)
                .map(value -> Scalar.OfValue.of(value).number())
                .orElse(OptionalDouble.empty());
    if (group.step().isPresent() && step.isEmpty()) {
      throw new RefusedException(
          keys.where(),
          "has no '%s': how many steps the optimizer has made is not said."
              .formatted(keys.state(members.names().get(0), STEP)));
    }
    return new Found(options, step, scalars);
  }

  /** What the distributed checkpoint has of the template's options. */
  private Map<String, PyObject> options(SavedOptimizer.Group group, Members members) {
    Map<String, PyObject> options = new LinkedHashMap<>();
    if (group.options().isEmpty()) {
      return options;
    }
    OptimizerKind kind =
        OptimizerKind.of(members.states(), group.scalars().keySet(), group.options().keySet());
    for (String option : group.options().keySet()) {
      Optional<PyObject> value = option(members.names(), option);
      if (value.isPresent()) {
        options.put(option, value.get());
      } else if (kind.isOfTorch()
          ? kind.required().contains(option)
          : !OptimizerKind.isOfImplementation(option)) {
        throw new RefusedException(
            keys.where(),
            "has no '%s' of the param group with %s, and the template's optimizer has it. Make the template with the same optimizer."
                .formatted(option, members.names().get(0)));
      }
    }
    for (String option : keys.options(optionsOf(members.names()))) {
      if (!group.options().containsKey(option) && !option.equals(STEP)) {
        PyObject value = option(members.names(), option).orElse(PyNone.NONE);
        if (OptimizerKind.isHyperParameter(option, value)) {
          throw new RefusedException(
              keys.where(),
              "the param group with %s has '%s', %s, and the template's optimizer has no such option: it has %s. Make the template with the same optimizer."
                  .formatted(
                      members.names().get(0),
                      option,
                      Scalar.OfValue.of(value),
                      group.options().keySet()));
        }
      }
    }
    return options;
  }

  /** What all parameters of a group have once, under a key of their own each. */
  private Optional<FoundScalar> scalar(SourceStore store, List<String> names, String scalar)
      throws IOException {
    Map<String, Scalar> found = new LinkedHashMap<>();
    Set<String> tensors = new TreeSet<>();
    for (String name : names) {
      String key = keys.state(name, scalar);
      if (keys.tensor(key).isPresent()) {
        tensors.add(key);
      } else if (objects.containsKey(key)) {
        found.put(key, Scalar.OfValue.of(objects.get(key)));
      }
    }
    found.putAll(ScalarValues.read(store, dcp, tensors));
    if (found.isEmpty()) {
      return Optional.empty();
    }
    String first = keys.state(names.get(0), scalar);
    for (String name : names) {
      String key = keys.state(name, scalar);
      if (!found.containsKey(key) || !found.get(key).equals(found.get(first))) {
        throw new RefusedException(
            keys.where(),
            "'%s' is %s, that of %s in the same param group %s. DeepSpeed keeps it once for a group."
                .formatted(
                    key,
                    found.containsKey(key) ? found.get(key) : "not there",
                    names.get(0),
                    found.containsKey(first) ? found.get(first) : "is not there"));
      }
    }
    return Optional.of(new FoundScalar(first, found.get(first)));
  }

  /** The number of the group, or the first parameter, whose options a flat checkpoint has. */
  private String optionsOf(List<String> names) {
    return keys.isFlat(names.get(0)) ? names.get(0) : groupOf(names);
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
