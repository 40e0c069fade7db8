package io.github.reshard.checkpoint.zero;

import io.github.reshard.checkpoint.layout.ShardedLayout;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.plan.States;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

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
        .replace(ShardedStates.PARTITION_COUNT, PyInt.of(target.worldSize()));
    List<PyObject> sourceFlat = List.copyOf(((PyList) states.flatGroups().node()).items());
    List<PyEntries.Entry> newStates = new ArrayList<>();
    List<PyObject> newFlat = new ArrayList<>();
    Map<String, Rewritten.Storage> moved = new HashMap<>();
    List<PickledValue> groups = states.paramGroups().items();
    for (int g = 0; g < groups.size(); g++) {
      List<Integer> from = source.bucketsOf(g);
      List<Integer> to = target.bucketsOf(g);
      List<PyObject> params = ((PyList) groups.get(g).get("params").node()).items();
      params.clear();
      for (int k = 0; k < to.size(); k++) {
        int bucket = to.get(k);
        boolean copied = k >= from.size();
        int like = from.get(copied ? 0 : k);
        Map<String, PickledValue> partitions = states.partitions(source, like);
        PyObject state =
            states.state(like).map(PickledValue::node).orElse(null);
        PyObject flat = sourceFlat.get(like);
        if (copied) {
          state = state == null ? null : copyOf(template, state, bucket, moved);
          flat = GraphCopy.of(flat);
        }
        params.add(PyInt.of(bucket));
        if (state != null) {
          newStates.add(new PyEntries.Entry(PyInt.of(bucket), state));
        }
        newFlat.add(flat);
        PickledValue values = new PickledValue(template.path(), "", state);
        for (String name : partitions.keySet()) {
          PyObject tensor =
              name.equals(States.MASTER)
                  ? flat
                  : values.get(name).node();
          resize(TensorNode.of(tensor).orElseThrow(), target, bucket, name, moved);
        }
        if (!dsIds.isEmpty()) {
          label(flat, dsIds.get(bucket));
        }
      }
    }
    List<PyEntries.Entry> state = states.state().entries().list();
    state.clear();
    state.addAll(newStates);
    List<PyObject> flatGroups = ((PyList) states.flatGroups().node()).items();
    flatGroups.clear();
    flatGroups.addAll(newFlat);
    return StorageList.of(template, root, moved);
  }

  /** The state of another sub-group once more; what is not partitioned gets storages of its own. */
  private static PyObject copyOf(
      TorchFile template, PyObject state, int bucket, Map<String, Rewritten.Storage> moved) {
    PyObject copy = GraphCopy.of(state);
    for (TensorNode tensor : StorageKeys.tensors(copy)) {
      String old = tensor.storageKey();
      String key = "sub-group " + bucket + " copy of " + old;
      moved.put(
          key,
          new Rewritten.Storage(
              key,
              template.storage(old).orElseThrow().bytes(),
              new Rewritten.Content.Carried(old)));
      StorageKeys.move(tensor, key, tensor.storage().elements());
    }
    return copy;
  }

  private static void resize(
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
