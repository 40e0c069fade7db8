package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.pickle.DictBuilder;
import io.github.reshard.checkpoint.pickle.GraphCopy;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * What of the param groups in a file of ZeRO-1 or 2 changes with the expert-parallel size: the name
 * of the experts' groups and, where they are filled anew, how many there are.
 *
 * @param templates for each group of the target, the group of the source whose options it has
 * @param experts for each group of the target, whether it has experts
 * @param size the expert-parallel size of the target
 */
record Regrouping(List<Integer> templates, List<Boolean> experts, int size)
    implements Serializable {
  private static final Pattern EXPERT =
      Pattern.compile("(.*deepspeed_experts\\.)(\\d{1,9})(\\..+)", Pattern.DOTALL);

  Regrouping {
    templates = List.copyOf(templates);
    experts = List.copyOf(experts);
  }

  private boolean isOneToOne(int groups) {
    for (int g = 0; g < templates.size(); g++) {
      if (templates.get(g) != g) {
        return false;
      }
    }
    return templates.size() == groups;
  }

  /**
   * Gives an optimizer file the target's groups, with the template's content.
   *
   * @param moved gets the storages of what is there more than once
   */
  void regroup(OptimizerStates states, Map<String, Rewritten.Storage> moved) {
    PickledValue dict = states.stateDict();
    if (!isOneToOne(states.groups())) {
      if (states.isElastic()) {
        throw dict.refused(
            "elastic_checkpoint keeps the states in a list, in which param groups were not seen to"
                + " come or go. Save the checkpoint without elastic_checkpoint.");
      }
      PickledValue base = states.baseState();
      List<PyEntries.Entry> old = new ArrayList<>(base.get("state").entries().list());
      List<Long> numbers = new ArrayList<>();
      for (PickledValue group : base.get("param_groups").items()) {
        numbers.add(group.get("params").items().get(0).asLong());
      }
      repeat(dict.get(OptimizerStates.MASTERS), moved);
      repeat(base.get("param_groups"), moved);
      for (String key :
          List.of(
              OptimizerStates.GROUP_PADDINGS,
              ParameterAlignments.KEY,
              OptimizerFile.PARTITION_COUNT,
              OptimizerStates.PARAM_SLICE_MAPPINGS)) {
        dict.findPresent(key).filter(PickledValue::isList).ifPresent(v -> repeat(v, moved));
      }
      List<PyEntries.Entry> entries = base.get("state").entries().list();
      entries.clear();
      Set<Integer> taken = new HashSet<>();
      for (int g = 0; g < templates.size(); g++) {
        int template = templates.get(g);
        for (PyEntries.Entry entry : old) {
          if (entry.key() instanceof PyInt key
              && key.value().longValue() == numbers.get(template)) {
            entries.add(
                new PyEntries.Entry(
                    PyInt.of(g),
                    taken.add(template) ? entry.value() : copy(dict, entry.value(), g, moved)));
          }
        }
        PickledValue params = base.get("param_groups").items().get(g).get("params");
        ((PyList) params.node()).items().set(0, PyInt.of(g));
      }
    }
    rename(states);
  }

  private void rename(OptimizerStates states) {
    IdentityHashMap<PyObject, PyStr> names = new IdentityHashMap<>();
    List<PickledValue> groups =
        states.isElastic() ? List.of() : states.baseState().get("param_groups").items();
    for (int g = 0; g < groups.size(); g++) {
      if (experts.get(g)) {
        PyStr name =
            names.computeIfAbsent(
                groups.get(g).get("name").node(), n -> new PyStr("ep_size_" + size));
        groups.get(g).entries().replace("name", name);
      }
    }
  }

  /** Puts copies of the list's items in the places of the target's groups. */
  private void repeat(PickledValue list, Map<String, Rewritten.Storage> moved) {
    List<PyObject> items = ((PyList) list.node()).items();
    List<PyObject> old = new ArrayList<>(items);
    items.clear();
    Set<Integer> taken = new HashSet<>();
    for (int g = 0; g < templates.size(); g++) {
      PyObject item = old.get(templates.get(g));
      items.add(taken.add(templates.get(g)) ? item : copy(list, item, g, moved));
    }
  }

  /** A copy with storages of its own. */
  private static PyObject copy(
      PickledValue in, PyObject node, int group, Map<String, Rewritten.Storage> moved) {
    PyObject copy = GraphCopy.of(node);
    Map<String, Integer> seen = new HashMap<>();
    for (TensorNode tensor : StorageKeys.tensors(in.file(), copy)) {
      String old = tensor.storageKey();
      long bytes = tensor.storage().bytes();
      String key = "group %d, a copy of %s".formatted(group, old);
      if (seen.putIfAbsent(key, 0) == null) {
        moved.put(key, new Rewritten.Storage(key, bytes, new Rewritten.Content.Copied(old, 0)));
      }
      StorageKeys.move(tensor, key, tensor.storageElements());
    }
    return copy;
  }

  /**
   * Gives a model file the target's {@code param_shapes}.
   *
   * @param layouts for each group its layout in the file
   * @param groups its group there
   */
  void reshape(ModelStates states, List<FlatLayout> layouts, List<Integer> groups) {
    List<PyObject> items = ((PyList) states.root().get(ModelStates.PARAM_SHAPES).node()).items();
    Map<String, PyObject> shapes = new HashMap<>();
    for (PickledValue group : states.root().get(ModelStates.PARAM_SHAPES).items()) {
      for (PickledValue.Entry entry : group.children()) {
        Matcher name = EXPERT.matcher(entry.key());
        if (name.matches()) {
          shapes.putIfAbsent(name.group(1) + name.group(3), entry.value().node());
        }
      }
    }
    List<PyObject> old = new ArrayList<>(items);
    items.clear();
    for (int g = 0; g < templates.size(); g++) {
      if (!experts.get(g)) {
        items.add(old.get(templates.get(g)));
        continue;
      }
      PyInstance group = DictBuilder.orderedDict();
      FlatLayout layout = layouts.get(g);
      for (int p : layout.flatOrder(groups.get(g))) {
        Parameter parameter = layout.parameters().get(p);
        Matcher name = EXPERT.matcher(parameter.name());
        if (!name.matches()) {
          throw new IllegalStateException(parameter.name());
        }
        group
            .dictItems()
            .add(
                new PyStr(parameter.name()),
                GraphCopy.of(shapes.get(name.group(1) + name.group(3))));
      }
      items.add(group);
    }
  }
}
