package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.OtherViews;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.Set;

/** Turns the model file of an mp rank at one data-parallel size into that at another. */
public final class FlatModelRewrite {
  private FlatModelRewrite() {}

  /**
   * A param group of the file at both sizes.
   *
   * @param source how it lies in the source
   * @param target how it lies in the target
   * @param group the group in these layouts
   */
  public record Group(FlatLayout source, FlatLayout target, int group) {}

  /** What {@code refs} refer to. */
  static List<Group> groups(List<GroupRef> refs, List<PartitionedModel> models) {
    return refs.stream()
        .map(ref -> new Group(ref.source(models), ref.target(models), ref.group()))
        .toList();
  }

  /**
   * What the file says at the target's size and stage.
   *
   * @param groups the param groups of the file
   * @param stage the ZeRO stage of the target, or {@link ZeroStage#AS_SAVED}
   */
  public static Rewritten rewrite(
      TorchFile template, List<Group> groups, int targetWorldSize, int stage) {
    return rewrite(template, groups, targetWorldSize, stage, Optional.empty());
  }

  /**
   * The same, with experts that are divided among other ranks.
   *
   * @param regrouping what changes of the groups, if anything does
   */
  static Rewritten rewrite(
      TorchFile template,
      List<Group> groups,
      int targetWorldSize,
      int stage,
      Optional<Regrouping> regrouping) {
    PyObject root = template.parse().root();
    ModelStates states = new ModelStates(PickledValue.root(template.path(), root));
    states.root().entries().replace(ModelStates.DP_WORLD_SIZE, PyInt.of(targetWorldSize));
    Map<String, TensorNode> module = states.module();
    Map<String, Rewritten.Storage> moved = new HashMap<>();
    Set<String> flat = new HashSet<>();
    if (states.hasShapes()) {
      regrouping.ifPresent(
          change ->
              change.reshape(
                  states,
                  groups.stream().map(Group::target).toList(),
                  groups.stream().map(Group::group).toList()));
    }
    for (int g = 0; g < groups.size(); g++) {
      Group group = groups.get(g);
      if (regrouping.isPresent() && regrouping.get().experts().get(g)) {
        continue; // their weights are in files of their own
      }
      String storage = flatStorage(module, group);
      if (storage != null) {
        moveFlat(template, root, module, storage, g, group, moved);
        flat.add(storage);
      }
      if (!states.hasShapes()) {
        continue;
      }
      PickledValue shapes = states.root().get(ModelStates.PARAM_SHAPES).items().get(g);
      List<PyEntries.Entry> entries = shapes.entries().list();
      List<PyEntries.Entry> reordered = new ArrayList<>();
      Map<Integer, PyEntries.Entry> byParameter = new HashMap<>();
      int[] sourceOrder = group.source().flatOrder(group.group());
      for (int place = 0; place < sourceOrder.length; place++) {
        byParameter.put(sourceOrder[place], entries.get(place));
      }
      for (int parameter : group.target().flatOrder(group.group())) {
        reordered.add(byParameter.get(parameter));
      }
      entries.clear();
      entries.addAll(reordered);
    }
    OtherViews.keep(template, root, flat, moved);
    if (stage != ZeroStage.AS_SAVED) {
      FlatStage.set(states, stage);
    }
    return StorageList.of(template, root, moved);
  }

  /**
   * The key of the storage that is the flat buffer of {@code group}, or null if the module's
   * weights are not views of one (stage_1_and_2.py, {@code _update_model_bit16_weights}, makes them
   * so).
   */
  static String flatStorage(Map<String, TensorNode> module, Group group) {
    FlatLayout layout = group.source();
    String key = null;
    for (int p : layout.flatOrder(group.group())) {
      Parameter parameter = layout.parameters().get(p);
      TensorNode weight = module.get(parameter.name());
      if (weight == null
          || !parameter.hasShape(weight.shape())
          || !weight.isContiguous()
          || weight.storageOffset() != layout.flatStart(p)
          || weight.storageElements() != layout.flatElements(group.group())
          || (key != null && !key.equals(weight.storageKey()))) {
        return null;
      }
      key = weight.storageKey();
    }
    return key;
  }

  private static void moveFlat(
      TorchFile template,
      PyObject root,
      Map<String, TensorNode> module,
      String storage,
      int g,
      Group group,
      Map<String, Rewritten.Storage> moved) {
    long elements = group.target().flatElements(group.group());
    String key = "flat weights of group " + g;
    int first = group.source().flatOrder(group.group())[0];
    DType dtype = module.get(group.source().parameters().get(first).name()).dtype();
    for (TensorNode tensor : StorageKeys.tensors(template.path(), root)) {
      if (tensor.storageKey().equals(storage) && tensor.dtype() == dtype) {
        tensor.requireInBounds(template.path() + ", a view of the flat weights of group " + g);
        OptionalLong shift = shift(group, tensor);
        if (shift.isPresent()) {
          StorageKeys.move(tensor, key, elements);
          tensor.setStorageOffset(tensor.storageOffset() + shift.getAsLong());
        }
      }
    }
    moved.put(
        key,
        new Rewritten.Storage(key, elements * dtype.bytes(), new Rewritten.Content.FlatWeights(g)));
  }

  /**
   * How far the elements that {@code tensor} shows move in the flat buffer; none if they do not all
   * move alike, or are padding.
   */
  private static OptionalLong shift(Group group, TensorNode tensor) {
    FlatLayout source = group.source();
    long at = tensor.storageOffset();
    if (tensor.numel() == 0) {
      int p = source.parameterAt(group.group(), at);
      return OptionalLong.of(p < 0 ? 0 : shift(group, p));
    }
    long last = tensor.lastElement();
    OptionalLong shift = OptionalLong.empty();
    while (at <= last) {
      int p = source.parameterAt(group.group(), at);
      if (p < 0
          || source.flatStart(p) > at
          || (shift.isPresent() && shift.getAsLong() != shift(group, p))) {
        return OptionalLong.empty();
      }
      shift = OptionalLong.of(shift(group, p));
      at = source.flatStart(p) + source.parameters().get(p).elements();
    }
    return shift;
  }

  private static long shift(Group group, int parameter) {
    return group.target().flatStart(parameter) - group.source().flatStart(parameter);
  }
}
