package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Item;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.States;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Predicate;

/**
 * Under which keys a distributed checkpoint has the parameters of a model that is known: the first
 * words of keys are whatever its program chose.
 */
public final class DcpKeys {
  private static final String STATE = "state.";
  private static final String GROUPS = "param_groups.";
  private static final String FLAT_PARAMETER = "_flat_param";
  private static final int MOST_NAMED = 5;

  private final String where;
  private final Map<String, Item> items;
  private final String model;
  private final String optimizer;

  private DcpKeys(String where, Map<String, Item> items, String model, String optimizer) {
    this.where = where;
    this.items = items;
    this.model = model;
    this.optimizer = optimizer;
  }

  /**
   * Finds those of the parameters of a checkpoint of DeepSpeed.
   *
   * @param template a plan of that
   * @throws RefusedException if they are not there, or in two places
   */
  static DcpKeys of(DcpCheckpoint dcp, ReshardPlan template) {
    List<String> trained = new ArrayList<>();
    Optional<String> state = Optional.empty();
    for (PartitionedModel model : template.models()) {
      if (!model.isFrozen()) {
        for (int p = 0; p < model.parameters().size(); p++) {
          trained.add(model.parameters().get(p).name());
          if (p == 0) {
            state =
                model.statesOf(p).keySet().stream()
                    .filter(name -> !name.equals(States.MASTER))
                    .findFirst();
          }
        }
      }
    }
    if (trained.isEmpty()) {
      throw new RefusedException(template.checkpoint(), "the template trains no parameter.");
    }
    return find(dcp, trained, state);
  }

  /** The key of a flat parameter, as FSDP1 saves them with LOCAL_STATE_DICT, if there is one. */
  static Optional<String> flatParameter(Set<String> keys) {
    return keys.stream().filter(key -> key.endsWith(FLAT_PARAMETER)).findFirst();
  }

  /**
   * Finds them.
   *
   * @param parameters the names of all that are trained
   * @param state a state that the optimizer keeps of the first of them, if it keeps any
   * @throws RefusedException if they are not there, or in two places
   */
  private static DcpKeys find(
      DcpCheckpoint checkpoint, Collection<String> parameters, Optional<String> state) {
    Map<String, Item> items = checkpoint.items();
    String where = checkpoint.path();
    Optional<String> flat = flatParameter(items.keySet());
    if (flat.isPresent()) {
      throw new RefusedException(
          where,
          "holds '%s', a flat parameter of FSDP1's LOCAL_STATE_DICT, whose shards mean something to the same ranks only. Save it with SHARDED_STATE_DICT."
              .formatted(flat.get()));
    }
    String first = parameters.iterator().next();
    String model =
        prefix(where, items.keySet(), "the weights of the model", parameters, name -> name);
    String optimizer =
        state.isEmpty()
            ? withoutStates(where, items.keySet(), first)
            : prefix(
                where,
                items.keySet(),
                "the optimizer's states",
                List.of(first),
                name -> STATE + name + "." + state.get());
    return new DcpKeys(where, items, model, optimizer);
  }

  /** An optimizer that keeps no state is found by its param groups, if these were saved. */
  private static String withoutStates(String where, Set<String> keys, String first) {
    for (String end : List.of(GROUPS + "0.params", GROUPS + first + ".lr")) {
      if (keys.stream().anyMatch(key -> key.equals(end) || key.endsWith("." + end))) {
        return prefix(where, keys, "the param groups", List.of(first), any -> end);
      }
    }
    return "";
  }

  private interface Suffix {
    String of(String parameter);
  }

  /** What stands before {@code suffix} of every parameter. */
  private static String prefix(
      String where, Set<String> keys, String what, Collection<String> parameters, Suffix suffix) {
    String end = suffix.of(parameters.iterator().next());
    Set<String> found = new TreeSet<>();
    List<String> missing = new ArrayList<>();
    for (String key : keys) {
      if (!key.equals(end) && !key.endsWith("." + end)) {
        continue;
      }
      String prefix = key.substring(0, key.length() - end.length());
      Predicate<String> isThere = name -> keys.contains(prefix + suffix.of(name));
      if (parameters.stream().allMatch(isThere)) {
        found.add(prefix);
      } else {
        missing.add(
            prefix
                + suffix.of(
                    parameters.stream().filter(isThere.negate()).findFirst().orElseThrow()));
      }
    }
    if (found.size() == 1) {
      return found.iterator().next();
    }
    if (found.isEmpty()) {
      throw new RefusedException(
          where,
          "expected %s under keys that end in '%s'; %s. It is of another model than the template, or was saved without them; its keys are such as %s."
              .formatted(
                  what,
                  end,
                  missing.isEmpty() ? "there is none" : "there is no '" + missing.get(0) + "'",
                  keys.stream().limit(MOST_NAMED).toList()));
    }
    throw new RefusedException(
        where,
        "has %s more than once, under keys that begin with %s. Which of them are meant is not said: save it once more with one of them."
            .formatted(what, found));
  }

  /** The key of a tensor of the model. */
  public String model(String name) {
    return model + name;
  }

  /** The key of a state of a parameter. */
  public String state(String parameter, String state) {
    return optimizer + STATE + parameter + "." + state;
  }

  /** The key of a state of a parameter, which the model has if it is the weight itself. */
  public String weightOrState(String parameter, String state) {
    return state.equals(States.MASTER) || state.equals(States.FROZEN) || state.equals(States.MODULE)
        ? model(parameter)
        : state(parameter, state);
  }

  /** The tensor {@code key}, if there is one. */
  public Optional<DcpMetadata.Tensor> tensor(String key) {
    return items.get(key) instanceof DcpMetadata.Tensor tensor
        ? Optional.of(tensor)
        : Optional.empty();
  }

  /**
   * The tensor {@code key}.
   *
   * @throws RefusedException if there is none
   */
  public DcpMetadata.Tensor requireTensor(String key) {
    return tensor(key)
        .orElseThrow(
            () ->
                new RefusedException(
                    where,
                    items.containsKey(key)
                        ? "'%s' is no tensor.".formatted(key)
                        : "has no '%s', which the template's run has. Is it of the same model and optimizer?"
                            .formatted(key)));
  }

  /** Names of tensors of the model, without what is before them. */
  public Set<String> modelNames() {
    Set<String> names = new TreeSet<>();
    items.forEach(
        (key, item) -> {
          boolean ofOptimizer = !optimizer.isEmpty() && key.startsWith(optimizer);
          if (item instanceof DcpMetadata.Tensor && key.startsWith(model) && !ofOptimizer) {
            names.add(key.substring(model.length()));
          }
        });
    return names;
  }

  /** The names of parameters that the optimizer keeps states of. */
  public Set<String> trainedNames() {
    Set<String> names = new TreeSet<>();
    String prefix = optimizer + STATE;
    for (String key : items.keySet()) {
      if (!optimizer.isEmpty() && key.startsWith(prefix)) {
        names.add(key.substring(prefix.length(), key.lastIndexOf('.')));
      }
    }
    return names;
  }

  /** The states that the checkpoint has of a parameter. */
  public Set<String> states(String parameter) {
    String prefix = state(parameter, "");
    Set<String> states = new TreeSet<>();
    for (String key : items.keySet()) {
      if (!optimizer.isEmpty() && key.startsWith(prefix) && key.indexOf('.', prefix.length()) < 0) {
        states.add(key.substring(prefix.length()));
      }
    }
    return states;
  }

  /** Whether each parameter has options of its own, instead of a list of groups. */
  public boolean isFlat(String parameter) {
    return items.keySet().stream()
        .anyMatch(key -> key.startsWith(optimizer + GROUPS + parameter + "."));
  }

  /** The options of group {@code groupOrParameter}; in a flat checkpoint of a parameter. */
  public Set<String> options(String groupOrParameter) {
    String prefix = option(groupOrParameter, "");
    Set<String> options = new TreeSet<>();
    for (String key : items.keySet()) {
      if (key.startsWith(prefix) && key.indexOf('.', prefix.length()) < 0) {
        options.add(key.substring(prefix.length()));
      }
    }
    return options;
  }

  /** The key of an option of group {@code group}; in a flat checkpoint of a parameter. */
  public String option(String groupOrParameter, String option) {
    return optimizer + GROUPS + groupOrParameter + "." + option;
  }

  /** Whether the optimizer has {@code key}: a state, or an option of a param group. */
  boolean isOfOptimizer(String key) {
    return key.startsWith(optimizer + STATE) || key.startsWith(optimizer + GROUPS);
  }

  /** All keys of objects. */
  public Set<String> valueKeys() {
    Set<String> keys = new TreeSet<>();
    items.forEach(
        (key, item) -> {
          if (item instanceof DcpMetadata.Value) {
            keys.add(key);
          }
        });
    return keys;
  }

  /** The checkpoint, for messages. */
  public String where() {
    return where;
  }
}
