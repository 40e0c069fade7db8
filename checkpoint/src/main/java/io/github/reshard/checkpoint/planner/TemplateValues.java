package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.pickle.PickleReader;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.zero12.OptimizerStates;
import io.github.reshard.checkpoint.zero3.ShardedStates;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * Values that take the place of a template's in its pickles: hyper-parameters, steps, counters. All
 * that are numbers of tensors lie in storages and are no part of this.
 */
final class TemplateValues implements Serializable {
  private static final long serialVersionUID = 1L;
  private static final int PROTOCOL = 2;
  private static final String STEP = "step";
  private static final String ELASTIC_STEP = "base_optimizer_state_step";
  private static final String PARAM_GROUPS = "param_groups";

  /** By group and option, pickled: nodes of a graph are not handed to workers. */
  private final List<Map<String, byte[]>> options = new ArrayList<>();

  private final List<Long> steps = new ArrayList<>();

  /** By group and name, pickled: what is a number in the state of a group. */
  private final List<Map<String, byte[]>> scalars = new ArrayList<>();

  /** By the way to it in a model file. */
  private final Map<List<String>, byte[]> ofModel = new LinkedHashMap<>();

  /**
   * Adds the next param group.
   *
   * @param values hyper-parameters that are other than the template's, or the same
   * @param step how many steps its optimizer has made; empty if it does not count them
   * @param ofState what else its state has once
   */
  void addGroup(Map<String, PyObject> values, Optional<Long> step, Map<String, PyObject> ofState) {
    options.add(pickled(values));
    steps.add(step.orElse(-1L));
    scalars.add(pickled(ofState));
  }

  private static Map<String, byte[]> pickled(Map<String, PyObject> values) {
    Map<String, byte[]> pickled = new LinkedHashMap<>();
    values.forEach((name, value) -> pickled.put(name, PickleWriter.write(value, PROTOCOL)));
    return pickled;
  }

  /** Replaces a value of the model files. */
  void putOfModel(List<String> path, PyObject value) {
    ofModel.put(List.copyOf(path), PickleWriter.write(value, PROTOCOL));
  }

  /** Replaces them in the graph of a file, a model file's or an optimizer file's. */
  void applyTo(PickledValue root) {
    if (isModelFile(root)) {
      ofModel.forEach((path, value) -> replace(root, path, read(value)));
    } else {
      applyToOptimizer(root);
    }
  }

  /** Whether it is what DeepSpeed saves in a model file. */
  static boolean isModelFile(PickledValue root) {
    return root.find("module").isPresent();
  }

  private static PyObject read(byte[] pickle) {
    return PickleReader.read(pickle, "a value of the distributed checkpoint").root();
  }

  private static void replace(PickledValue root, List<String> path, PyObject value) {
    PickledValue at = root;
    for (String key : path.subList(0, path.size() - 1)) {
      at = at.get(key);
    }
    at.entries().replace(path.get(path.size() - 1), value);
  }

  /** The states of each param group: one in ZeRO-1 and 2, in ZeRO-3 one for each sub-group. */
  static List<List<PickledValue>> states(PickledValue root) {
    ShardedStates sharded = new ShardedStates(root);
    OptimizerStates flat = new OptimizerStates(root);
    boolean isSharded = sharded.stateDict().find(OptimizerFile.FLAT_GROUPS).isPresent();
    int groups = isSharded ? sharded.paramGroups().items().size() : flat.groups();
    List<List<PickledValue>> states = new ArrayList<>();
    for (int g = 0; g < groups; g++) {
      List<PickledValue> ofGroup = new ArrayList<>();
      if (isSharded) {
        sharded.subGroups().get(g).forEach(b -> sharded.state(b).ifPresent(ofGroup::add));
      } else {
        flat.stateNode(g)
            .ifPresent(node -> ofGroup.add(new PickledValue(root.file(), "state", node)));
      }
      states.add(ofGroup);
    }
    return states;
  }

  private static List<PickledValue> paramGroups(PickledValue root) {
    ShardedStates sharded = new ShardedStates(root);
    if (sharded.stateDict().find(OptimizerFile.FLAT_GROUPS).isPresent()) {
      return sharded.paramGroups().items();
    }
    OptimizerStates flat = new OptimizerStates(root);
    return flat.isElastic() ? List.of() : flat.baseState().get(PARAM_GROUPS).items();
  }

  private void applyToOptimizer(PickledValue root) {
    List<PickledValue> groups = paramGroups(root);
    for (int g = 0; g < groups.size(); g++) {
      PyEntries entries = groups.get(g).entries();
      options.get(g).forEach((name, value) -> entries.replace(name, read(value)));
      replaceStep(groups.get(g), STEP, steps.get(g));
    }
    replaceStep(new OptimizerFile(root).stateDict(), ELASTIC_STEP, steps.get(0));
    List<List<PickledValue>> states = states(root);
    for (int g = 0; g < states.size(); g++) {
      for (PickledValue state : states.get(g)) {
        PyEntries entries = state.entries();
        scalars.get(g).forEach((name, value) -> entries.replace(name, read(value)));
        replaceStep(state, STEP, steps.get(g));
      }
    }
  }

  /** A step that is a tensor is none of these. */
  private static void replaceStep(PickledValue dict, String name, long step) {
    Optional<PickledValue> found = dict.find(name);
    if (found.isPresent() && found.get().node() instanceof PyInt) {
      dict.entries().replace(name, PyInt.of(step));
    } else if (found.isPresent() && found.get().node() instanceof PyFloat) {
      dict.entries().replace(name, new PyFloat(step));
    }
  }
}
