package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.format.OtherViews;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Turns the ZeRO-3 model file of a source rank into that of a target rank. */
public final class ShardedModelRewrite {
  private static final PyGlobal ORDERED_DICT = new PyGlobal("collections", "OrderedDict");

  private ShardedModelRewrite() {}

  /**
   * What the file says at the target's size.
   *
   * @param template the source rank's file
   * @param source how the trainable parameters lie in it
   * @param target how they lie at the target's size
   * @param frozen how the frozen parameters lie at the target's size
   * @param sharesParameters whether to keep {@code shared_params}, which only global rank 0 has
   */
  public static Rewritten rewrite(
      TorchFile template,
      ShardedLayout source,
      ShardedLayout target,
      ShardedLayout frozen,
      boolean sharesParameters) {
    PyObject root = template.parse().root();
    ModelStates states = new ModelStates(PickledValue.root(template.path(), root));
    PyEntries entries = states.root().entries();
    entries.replace(ModelStates.DP_WORLD_SIZE, PyInt.of(target.worldSize()));
    if (!source.hasBoundariesOf(target)) {
      regroup(states, target);
    }
    if (!sharesParameters
        && states.root().findPresent(ModelStates.SHARED_PARAMS).isPresent()
        && states.root().get(ModelStates.SHARED_PARAMS).entries().size() > 0) {
      entries.replace(ModelStates.SHARED_PARAMS, new PyDict());
    }
    Map<String, Rewritten.Storage> moved = new HashMap<>();
    Map<String, PickledValue> fragments = states.frozenFragments();
    Set<String> pieces = new HashSet<>();
    for (int p = 0; p < frozen.parameters().size(); p++) {
      TensorNode fragment = fragments.get(frozen.parameters().get(p).name()).tensor();
      String key = "fragment " + p;
      long elements = frozen.bucketElements(p);
      pieces.add(fragment.storageKey());
      StorageKeys.move(fragment, key, elements);
      fragment.setGeometry(0, elements);
      moved.put(
          key,
          new Rewritten.Storage(
              key,
              elements * fragment.dtype().bytes(),
              new Rewritten.Content.PartitionOf(p, States.FROZEN)));
    }
    OtherViews.keep(template, root, pieces, moved);
    return StorageList.of(template, root, moved);
  }

  /** {@code param_shapes} has one dict a sub-group. */
  private static void regroup(ModelStates states, ShardedLayout target) {
    List<PyObject> subGroups =
        ((PyList) states.root().get(ModelStates.PARAM_SHAPES).node()).items();
    List<PyEntries.Entry> shapes = new ArrayList<>();
    for (PickledValue subGroup : states.root().get(ModelStates.PARAM_SHAPES).items()) {
      shapes.addAll(subGroup.entries().list());
    }
    subGroups.clear();
    for (int b = 0; b < target.buckets(); b++) {
      PyInstance subGroup = PyInstance.reduce(ORDERED_DICT, PyTuple.of());
      subGroup.dictItems().list().addAll(shapes.subList(target.firstOf(b), target.firstOf(b + 1)));
      subGroups.add(subGroup);
    }
  }
}
