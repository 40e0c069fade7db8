package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ModuleParameters;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.OtherViews;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.pickle.DictBuilder;
import io.github.reshard.checkpoint.pickle.GraphCopy;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.Parameter;
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
import java.util.Optional;
import java.util.Set;

/**
 * Files of ZeRO-3 made from those of another stage (DeepSpeed 0.19.6, {@code state_dict} of
 * runtime/zero/stage3.py; {@code _common_checkpoint_state} of runtime/engine.py).
 */
final class NewShardedFiles {
  private static final PyGlobal TENSOR = new PyGlobal("torch", "Tensor");
  private static final PyGlobal REBUILD = new PyGlobal("torch._utils", "_rebuild_tensor_v2");
  private static final PyGlobal REBUILD_TYPED =
      new PyGlobal("torch._tensor", "_rebuild_from_type_v2");

  private NewShardedFiles() {}

  /** A rank's optimizer file of ZeRO-3, made from one of ZeRO-1 or 2. */
  static Rewritten optimizer(
      TorchFile template, OptimizerValues values, ShardedLayout target, List<String> dsIds) {
    PickledValue base = values.inner();
    List<PickledValue> groups = values.paramGroups();
    Map<String, Rewritten.Storage> moved = new HashMap<>();
    List<PyEntries.Entry> stateEntries = new ArrayList<>();
    PyList flatGroups = new PyList();
    for (int g = 0; g < groups.size(); g++) {
      List<Integer> buckets = target.bucketsOf(g);
      OptimizerValues.Group group = values.groups().get(g);
      Optional<PyObject> state = group.state();
      PyObject master = group.master();
      List<String> names = group.cut();
      List<PyObject> ofBuckets = new ArrayList<>();
      for (int k = 0; k < buckets.size(); k++) {
        int bucket = buckets.get(k);
        ofBuckets.add(
            k == 0
                ? state.orElse(null)
                : state
                    .map(
                        node ->
                            ShardedOptimizerRewrite.copyOf(template.path(), node, bucket, moved))
                    .orElse(null));
      }
      for (int k = 0; k < buckets.size(); k++) {
        int bucket = buckets.get(k);
        if (ofBuckets.get(k) != null) {
          PickledValue value = new PickledValue(template.path(), "", ofBuckets.get(k));
          for (String name : names) {
            ShardedOptimizerRewrite.resize(
                StateTensors.get(value, name).tensor(), target, bucket, name, moved);
          }
          if (value.entries().size() > 0) {
            stateEntries.add(new PyEntries.Entry(PyInt.of(bucket), ofBuckets.get(k)));
          }
        }
        PyObject flat = labelled(GraphCopy.of(master), dsIds.get(bucket));
        ShardedOptimizerRewrite.resize(
            TensorNode.of(flat).orElseThrow(), target, bucket, States.MASTER, moved);
        flatGroups.items().add(flat);
      }
      List<PyObject> params = ((PyList) groups.get(g).get("params").node()).items();
      params.clear();
      buckets.forEach(bucket -> params.add(PyInt.of(bucket)));
    }
    List<PyEntries.Entry> all = base.get("state").entries().list();
    all.clear();
    all.addAll(stateEntries);
    OptimizerFile file = new OptimizerFile(values.root());
    DictBuilder made =
        file.takeScaling(new DictBuilder().put(OptimizerFile.ZERO_STAGE, file.stageNode(3)))
            .put(OptimizerFile.PARTITION_COUNT, PyInt.of(target.worldSize()))
            .put(OptimizerFile.WRAPPER, base.node())
            .put(OptimizerFile.FLAT_GROUPS, flatGroups);
    values.root().entries().replace(OptimizerFile.WRAPPER, made.dict());
    DsConfig.of(values.root()).setStage(3);
    return StorageList.of(template, values.root().node(), moved);
  }

  /** The tensor with an attribute, as it is pickled then. */
  private static PyObject labelled(PyObject tensor, String dsId) {
    PyInstance rebuilt = (PyInstance) tensor;
    PyDict attributes = new PyDict();
    attributes.entries().add(new PyStr(ShardedStates.DS_ID), new PyStr(dsId));
    return PyInstance.reduce(
        REBUILD_TYPED, PyTuple.of(REBUILD, TENSOR, rebuilt.args(), attributes));
  }

  /**
   * A rank's model file of ZeRO-3, made from the one of ZeRO-1 or 2.
   *
   * @param frozen the frozen parameters at the target's size
   * @param sharesParameters whether to keep {@code shared_params}, which only rank 0 has
   */
  static Rewritten model(
      TorchFile template, ShardedLayout target, ShardedLayout frozen, boolean sharesParameters) {
    PyObject root = template.parse().root();
    ModelStates model = new ModelStates(PickledValue.root(template.path(), root));
    PyEntries entries = model.root().entries();
    Map<String, Rewritten.Storage> moved = new HashMap<>();
    Map<String, TensorNode> module = model.module();
    ModuleParameters parameters = ModuleParameters.of(model);
    boolean lists = model.root().findPresent(ModelStates.FROZEN_SHAPES).isPresent();
    boolean excluded = ModuleParameters.listsNone(model);
    Set<String> partitioned = new HashSet<>();
    PyInstance shapes = DictBuilder.orderedDict();
    PyInstance fragments = DictBuilder.orderedDict();
    for (int p = 0; p < frozen.parameters().size(); p++) {
      String name = frozen.parameters().get(p).name();
      TensorNode weight = parameters.frozen().get(name);
      partitioned.add(weight.storageKey());
      PyObject fragment = GraphCopy.of(weight.node());
      TensorNode tensor = TensorNode.of(fragment).orElseThrow();
      long elements = frozen.bucketElements(p);
      String key = "fragment " + p;
      StorageKeys.move(tensor, key, elements);
      tensor.setGeometry(0, elements);
      moved.put(
          key,
          new Rewritten.Storage(
              key,
              elements * tensor.dtype().bytes(),
              new Rewritten.Content.PartitionOf(p, States.FROZEN)));
      PyStr label = new PyStr(name);
      shapes
          .dictItems()
          .add(
              label,
              TensorNode.size(
                  frozen.parameters().get(p).shape().stream().mapToLong(s -> s).toArray()));
      fragments.dictItems().add(label, fragment);
    }
    if (!lists && !excluded) {
      entries.replace(ModelStates.FROZEN_SHAPES, shapes);
    }
    if (!excluded) {
      entries.replace(ModelStates.FROZEN_FRAGMENTS, fragments);
    }
    module.forEach(
        (name, weight) -> {
          if (parameters.contains(name)) {
            String key = "placeholder " + parameters.own(name);
            String old = weight.storageKey();
            if (moved.containsKey(old)) {
              return; // One tensor by two names.
            }
            partitioned.add(old);
            StorageKeys.move(weight, key, 0);
            weight.setGeometry(0, 0);
            moved.put(key, new Rewritten.Storage(key, 0, new Rewritten.Content.Carried(old)));
          }
        });
    OtherViews.keep(template, root, partitioned, moved);
    model.setShapes(target.buckets(), bucket -> names(target, bucket));
    if (!sharesParameters && !ModuleParameters.tied(model).isEmpty()) {
      entries.replace(ModelStates.SHARED_PARAMS, new PyDict());
    }
    entries.replace(ModelStates.DP_WORLD_SIZE, PyInt.of(target.worldSize()));
    DsConfig.of(model.root()).setStage(3);
    return StorageList.of(template, root, moved);
  }

  private static List<String> names(ShardedLayout layout, int bucket) {
    return layout.parameters().subList(layout.firstOf(bucket), layout.firstOf(bucket + 1)).stream()
        .map(Parameter::name)
        .toList();
  }
}
