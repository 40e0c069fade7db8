package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ModuleParameters;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyPersistentId;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.PathTo;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Turns the model file of a tensor-parallel rank into that of a rank that has other parts of the
 * same parameters: each weight has another shape, and lies elsewhere.
 */
final class RecutModelRewrite {
  private final TorchFile template;
  private final PyObject root;
  private final ModelStates states;
  private final Map<String, Rewritten.Storage> moved = new HashMap<>();

  /** Where the template's weights begin, and what becomes of them. */
  private final Map<String, Place> places = new HashMap<>();

  private final Set<String> storages = new HashSet<>();

  /**
   * Where a weight goes.
   *
   * @param saved its shape in the template
   * @param key the storage that it gets
   * @param elements of that storage
   * @param offset where it begins there, in elements
   * @param shape its shape there
   */
  private record Place(Parameter saved, String key, long elements, long offset, List<Long> shape) {}

  private RecutModelRewrite(TorchFile template) {
    this.template = template;
    this.root = template.parse().root();
    this.states = new ModelStates(PickledValue.root(template.path(), root));
  }

  /**
   * What the file says.
   *
   * @param groups the param groups of the file, in the layouts of the two ranks
   * @param frozen the frozen parameters with their shapes in the target
   * @param stage of the target, or {@link ZeroStage#AS_SAVED}
   */
  static Rewritten rewrite(
      TorchFile template,
      List<FlatModelRewrite.Group> groups,
      List<Parameter> frozen,
      int targetWorldSize,
      int stage) {
    RecutModelRewrite rewrite = new RecutModelRewrite(template);
    rewrite.states.root().entries().replace(ModelStates.DP_WORLD_SIZE, PyInt.of(targetWorldSize));
    Map<String, TensorNode> module = rewrite.states.module();
    for (int g = 0; g < groups.size(); g++) {
      rewrite.place(module, g, groups.get(g));
      rewrite.shapes(g, groups.get(g));
    }
    rewrite.placeFrozen(frozen);
    rewrite.moveAll();
    if (stage != ZeroStage.AS_SAVED) {
      FlatStage.set(rewrite.states, stage);
    }
    return StorageList.of(template, rewrite.root, rewrite.moved);
  }

  private void place(Map<String, TensorNode> module, int g, FlatModelRewrite.Group group) {
    FlatLayout from = group.source();
    FlatLayout to = group.target();
    boolean flat = FlatModelRewrite.flatStorage(module, group) != null;
    for (int p : to.flatOrder(group.group())) {
      Parameter saved = from.parameters().get(p);
      Parameter own = to.parameters().get(p);
      TensorNode weight = module.get(own.name());
      if (weight == null) {
        throw states
            .root()
            .get("module")
            .refused("has no %s, which param_shapes names.".formatted(own.name()));
      }
      String key = flat ? "flat weights of group " + g : "weight " + p;
      long elements = flat ? to.flatElements(group.group()) : own.elements();
      Place place = new Place(saved, key, elements, flat ? to.flatStart(p) : 0, own.shape());
      Rewritten.Content content =
          flat ? new Rewritten.Content.FlatWeights(g) : new Rewritten.Content.Weight(p);
      moved.put(key, new Rewritten.Storage(key, elements * weight.dtype().bytes(), content));
      if (weight.numel() == 0) {
        move(weight, place);
        continue;
      }
      storages.add(weight.storageKey());
      places.put(weight.storageKey() + "@" + weight.storageOffset(), place);
    }
  }

  private void placeFrozen(List<Parameter> frozen) {
    if (frozen.isEmpty()) {
      return;
    }
    Map<String, TensorNode> weights = ModuleParameters.of(states).frozen();
    for (int p = 0; p < frozen.size(); p++) {
      Parameter own = frozen.get(p);
      TensorNode weight = weights.get(own.name());
      List<Long> shape = Arrays.stream(weight.shape()).boxed().toList();
      String key = "frozen " + p;
      Place place =
          new Place(
              new Parameter(own.name(), shape, own.group()), key, own.elements(), 0, own.shape());
      moved.put(
          key,
          new Rewritten.Storage(
              key,
              own.elements() * weight.dtype().bytes(),
              new Rewritten.Content.PartitionOf(p, States.FROZEN)));
      if (weight.numel() == 0) {
        move(weight, place);
        continue;
      }
      storages.add(weight.storageKey());
      places.put(weight.storageKey() + "@" + weight.storageOffset(), place);
    }
  }

  private void shapes(int g, FlatModelRewrite.Group group) {
    PickledValue shapes = states.root().get(ModelStates.PARAM_SHAPES).items().get(g);
    Map<String, PyEntries.Entry> byName = new HashMap<>();
    for (PyEntries.Entry entry : shapes.entries()) {
      byName.put(((PyStr) entry.key()).value(), entry);
    }
    List<PyEntries.Entry> entries = shapes.entries().list();
    entries.clear();
    for (int p : group.target().flatOrder(group.group())) {
      Parameter own = group.target().parameters().get(p);
      PyEntries.Entry entry = byName.get(own.name());
      // A torch.Size, whose class the file names once.
      ((PyInstance) entry.value())
          .setArgs(PyTuple.of(new PyTuple(own.shape().stream().map(PyInt::of).toList())));
      entries.add(entry);
    }
  }

  private void move(TensorNode tensor, Place place) {
    StorageKeys.move(tensor, place.key(), place.elements());
    tensor.setGeometry(place.offset(), place.shape().stream().mapToLong(Long::longValue).toArray());
  }

  /** Every tensor that is a weight, under whatever name; no other may show elements of one. */
  private void moveAll() {
    for (TensorNode tensor : StorageKeys.tensors(template.path(), root)) {
      if (!storages.contains(tensor.storageKey())) {
        continue;
      }
      Place place = places.get(tensor.storageKey() + "@" + tensor.storageOffset());
      if (place == null || !place.saved().hasShape(tensor.shape()) || !tensor.isContiguous()) {
        throw refused(PathTo.node(states.root(), tensor.node()));
      }
      move(tensor, place);
    }
    for (PyPersistentId reference : StorageKeys.references(root)) {
      if (storages.contains(StorageNode.of(reference).orElseThrow().key())) {
        throw refused(PathTo.node(states.root(), reference));
      }
    }
  }

  private RefusedException refused(String what) {
    return new RefusedException(
        template.path(),
        "%s shows elements of the module's weights and is none of them: it cannot be told what it is on other tensor-parallel ranks. Save the checkpoint without it, or with a clone() of it."
            .formatted(what));
  }
}
