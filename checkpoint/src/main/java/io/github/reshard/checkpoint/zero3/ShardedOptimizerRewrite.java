package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.pickle.GraphCopy;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Turns the ZeRO-3 optimizer file of a source rank into that of a target rank. */
final class ShardedOptimizerRewrite {
  private ShardedOptimizerRewrite() {}

  /**
   * @param template the source rank's file
   * @param source the layout that it is in
   * @param target the layout that it gets
   * @param dsIds the label of each sub-group of the target, or none
   */
  static Rewritten rewrite(
      TorchFile template, ShardedLayout source, ShardedLayout target, List<String> dsIds) {
    PyObject root = template.parse().root();
    ShardedStates states = new ShardedStates(PickledValue.root(template.path(), root));
    states
        .stateDict()
        .entries()
        .replace(OptimizerFile.PARTITION_COUNT, PyInt.of(target.worldSize()));
    Map<String, Rewritten.Storage> moved = new HashMap<>();
    List<SubGroup> subGroups = subGroups(states, source, target, moved);
    // Only now, because a sub-group may be the model of several.
    for (SubGroup subGroup : subGroups) {
      for (String name : subGroup.partitioned()) {
        PyObject tensor =
            name.equals(States.MASTER)
                ? subGroup.flat()
                : StateTensors.get(new PickledValue(template.path(), "", subGroup.state()), name)
                    .node();
        resize(TensorNode.of(tensor).orElseThrow(), target, subGroup.bucket(), name, moved);
      }
      if (!dsIds.isEmpty()) {
        label(subGroup.flat(), dsIds.get(subGroup.bucket()));
      }
    }
    List<PickledValue> groups = states.paramGroups().items();
    for (int g = 0; g < groups.size(); g++) {
      List<PyObject> params = ((PyList) groups.get(g).get("params").node()).items();
      params.clear();
      target.bucketsOf(g).forEach(bucket -> params.add(PyInt.of(bucket)));
    }
    List<PyEntries.Entry> state = states.state().entries().list();
    state.clear();
    for (SubGroup subGroup : subGroups) {
      if (subGroup.state() != null) {
        state.add(new PyEntries.Entry(PyInt.of(subGroup.bucket()), subGroup.state()));
      }
    }
    List<PyObject> flatGroups = ((PyList) states.flatGroups().node()).items();
    flatGroups.clear();
    subGroups.forEach(subGroup -> flatGroups.add(subGroup.flat()));
    return StorageList.of(template, root, moved);
  }

  /**
   * A sub-group of the target.
   *
   * @param state its state as the template has it, or null
   * @param flat its master weights as the template has them
   * @param partitioned the names of its partitioned states
   */
  private record SubGroup(int bucket, PyObject state, PyObject flat, Set<String> partitioned) {}

  /** Takes each from the one of the same number in its param group, or else from the first. */
  private static List<SubGroup> subGroups(
      ShardedStates states,
      ShardedLayout source,
      ShardedLayout target,
      Map<String, Rewritten.Storage> moved) {
    List<SubGroup> subGroups = new ArrayList<>();
    for (int g = 0; g < states.paramGroups().items().size(); g++) {
      List<Integer> from = source.bucketsOf(g);
      List<Integer> to = target.bucketsOf(g);
      for (int k = 0; k < to.size(); k++) {
        boolean copied = k >= from.size();
        int like = from.get(copied ? 0 : k);
        PyObject state = states.state(like).map(PickledValue::node).orElse(null);
        PyObject flat = states.flatGroups().items().get(like).node();
        if (copied) {
          state = state == null ? null : copyOf(states.root().file(), state, to.get(k), moved);
          flat = GraphCopy.of(flat);
        }
        subGroups.add(
            new SubGroup(to.get(k), state, flat, states.partitions(source, like).keySet()));
      }
    }
    return subGroups;
  }

  /** The state of another sub-group once more; what is not partitioned gets storages of its own. */
  static PyObject copyOf(
      String file, PyObject state, int bucket, Map<String, Rewritten.Storage> moved) {
    PyObject copy = GraphCopy.of(state);
    for (TensorNode tensor : StorageKeys.tensors(file, copy)) {
      String old = tensor.storageKey();
      String key = "sub-group " + bucket + " copy of " + old;
      moved.put(
          key,
          new Rewritten.Storage(key, tensor.storage().bytes(), new Rewritten.Content.Carried(old)));
      StorageKeys.move(tensor, key, tensor.storage().elements());
    }
    return copy;
  }

  static void resize(
      TensorNode tensor,
      ShardedLayout target,
      int bucket,
      String state,
      Map<String, Rewritten.Storage> moved) {
    String key = "sub-group " + bucket + " " + state;
    long elements = target.bucketElements(bucket);
    StorageKeys.move(tensor, key, elements);
    tensor.setGeometry(0, elements);
    moved.put(
        key,
        new Rewritten.Storage(
            key,
            elements * tensor.dtype().bytes(),
            new Rewritten.Content.PartitionOf(bucket, state)));
  }

  private static void label(PyObject flat, String dsId) {
    ShardedStates.attributes(flat)
        .ifPresent(
            attributes -> {
              if (attributes.get(ShardedStates.DS_ID) instanceof PyStr old
                  && !old.value().equals(dsId)) {
                attributes.entries().replace(ShardedStates.DS_ID, new PyStr(dsId));
              }
            });
  }
}
