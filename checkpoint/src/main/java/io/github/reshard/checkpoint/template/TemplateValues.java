package io.github.reshard.checkpoint.template;

import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.pickle.PickleReader;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.PickledValue;
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
public final class TemplateValues implements Serializable {
  private static final long serialVersionUID = 1L;
  private static final int PROTOCOL = 2;
  private static final String STEP = "step";
  private static final String ELASTIC_STEP = "base_optimizer_state_step";

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
  public void addGroup(
      Map<String, PyObject> values, Optional<Long> step, Map<String, PyObject> ofState) {
    options.add(pickled(values));
    steps.add(step.orElse(-1L));
    scalars.add(pickled(ofState));
  }

  private static Map<String, byte[]> pickled(Map<String, PyObject> values) {
    Map<String, byte[]> pickled = new LinkedHashMap<>();
    values.forEach((name, value) -> pickled.put(name, PickleWriter.write(value, PROTOCOL)));
    return pickled;
  }

  /**
   * Replaces a value of the model files.
   *
   * @param path keys of dicts and positions in lists
   */
  public void putOfModel(List<String> path, PyObject value) {
    ofModel.put(List.copyOf(path), PickleWriter.write(value, PROTOCOL));
  }

  /** Replaces them in the graph of a model file. */
  void applyToModel(PickledValue root) {
    ofModel.forEach((path, value) -> replace(root, path, read(value)));
  }

  /** Whether it is what DeepSpeed saves in a model file. */
  public static boolean isModelFile(PickledValue root) {
    return root.find("module").isPresent();
  }

  private static PyObject read(byte[] pickle) {
    return PickleReader.read(pickle, "a value of the distributed checkpoint").root();
  }

  private static void replace(PickledValue root, List<String> path, PyObject value) {
    PickledValue at = root;
    for (String key : path.subList(0, path.size() - 1)) {
      at = at.isList() ? at.items().get(Integer.parseInt(key)) : at.get(key);
    }
    String last = path.get(path.size() - 1);
    if (at.node() instanceof PyList list) {
      list.items().set(Integer.parseInt(last), value);
    } else {
      at.entries().replace(last, value);
    }
  }

  /** Replaces them in the graph of an optimizer file. */
  void applyToOptimizer(PickledValue root, OptimizerValues.Reading reading) {
    List<OptimizerValues.Shared> groups = reading.shared(root);
    replaceStep(new OptimizerFile(root).stateDict(), ELASTIC_STEP, steps.get(0));
    for (int g = 0; g < groups.size(); g++) {
      Optional<PickledValue> group = groups.get(g).options();
      if (group.isPresent()) {
        replace(group.get(), options.get(g));
        replaceStep(group.get(), STEP, steps.get(g));
      }
      for (PickledValue state : groups.get(g).states()) {
        replace(state, scalars.get(g));
        replaceStep(state, STEP, steps.get(g));
      }
    }
  }

  private static void replace(PickledValue dict, Map<String, byte[]> values) {
    PyEntries entries = dict.entries();
    values.forEach((name, value) -> entries.replace(name, read(value)));
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
