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
  private static final String PARAM_GROUPS = "param_groups";

  /** By group and option, pickled: nodes of a graph are not handed to workers. */
  private final List<Map<String, byte[]>> options = new ArrayList<>();

  private final List<Long> steps = new ArrayList<>();

  /** By the way to it in a model file. */
  private final Map<List<String>, byte[]> ofModel = new LinkedHashMap<>();

  /**
   * Adds the next param group.
   *
   * @param values hyper-parameters that are other than the template's, or the same
   * @param step how many steps its optimizer has made; empty if it does not count them
   */
  void addGroup(Map<String, PyObject> values, Optional<Long> step) {
    Map<String, byte[]> pickled = new LinkedHashMap<>();
    values.forEach((name, value) -> pickled.put(name, PickleWriter.write(value, PROTOCOL)));
    options.add(pickled);
    steps.add(step.orElse(-1L));
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

  private void applyToOptimizer(PickledValue root) {
    ShardedStates sharded = new ShardedStates(root);
    boolean isSharded = sharded.stateDict().find(OptimizerFile.FLAT_GROUPS).isPresent();
    OptimizerStates flat = new OptimizerStates(root);
    List<PickledValue> groups =
        isSharded ? sharded.paramGroups().items() : flat.baseState().get(PARAM_GROUPS).items();
    for (int g = 0; g < groups.size(); g++) {
      PyEntries entries = groups.get(g).entries();
      options.get(g).forEach((name, value) -> entries.replace(name, read(value)));
      replaceStep(groups.get(g), steps.get(g));
      if (isSharded) {
        for (int bucket : sharded.subGroups().get(g)) {
          Optional<PickledValue> state = sharded.state(bucket);
          if (state.isPresent()) {
            replaceStep(state.get(), steps.get(g));
          }
        }
      } else {
        Optional<PyObject> state = flat.stateNode(g);
        if (state.isPresent()) {
          replaceStep(new PickledValue(root.file(), "state", state.get()), steps.get(g));
        }
      }
    }
  }

  /** A step that is a tensor is none of these. */
  private static void replaceStep(PickledValue dict, long step) {
    Optional<PickledValue> found = dict.find(STEP);
    if (found.isPresent() && found.get().node() instanceof PyInt) {
      dict.entries().replace(STEP, PyInt.of(step));
    } else if (found.isPresent() && found.get().node() instanceof PyFloat) {
      dict.entries().replace(STEP, new PyFloat(step));
    }
  }
}
