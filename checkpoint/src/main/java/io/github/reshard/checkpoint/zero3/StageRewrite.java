package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.DsVersion;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ModuleParameters;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.Replicated;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.OtherViews;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.pickle.GraphCopy;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import io.github.reshard.checkpoint.zero12.FlatOptimizerRewrite;
import io.github.reshard.checkpoint.zero12.FlatPaddings;
import io.github.reshard.checkpoint.zero12.OptimizerStates;
import io.github.reshard.checkpoint.zero12.ParameterAlignments;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * Turns files of one ZeRO stage into those that a run at another stage saves (DeepSpeed 0.19.6,
 * {@code state_dict} of runtime/zero/stage_1_and_2.py, stage3.py and bf16_optimizer.py; {@code
 * _common_checkpoint_state} of runtime/engine.py).
 */
public final class StageRewrite {
  private static final PyGlobal LOSS_SCALER =
      new PyGlobal("deepspeed.runtime.fp16.loss_scaler", "LossScaler");
  private static final PyGlobal SIZE = new PyGlobal("torch", "Size");
  private static final PyGlobal TENSOR = new PyGlobal("torch", "Tensor");
  private static final PyGlobal REBUILD = new PyGlobal("torch._utils", "_rebuild_tensor_v2");
  private static final PyGlobal REBUILD_TYPED =
      new PyGlobal("torch._tensor", "_rebuild_from_type_v2");

  private static final String WRAPPER = "optimizer_state_dict";
  private static final String ZERO_STAGE = "zero_stage";
  private static final String LOSS = "loss_scaler";
  private static final String DYNAMIC = "dynamic_loss_scale";
  private static final String OVERFLOW = "overflow";
  private static final String CLIP = "clip_grad";
  private static final String BASE = "base_optimizer_state";
  private static final String MASTERS = "single_partition_of_fp32_groups";
  private static final String VERSION = "ds_version";

  private StageRewrite() {}

  private static PyObject stageNode(int stage, PickledValue saved) {
    return ZeroStage.written(stage, saved.find(ZERO_STAGE).map(PickledValue::node));
  }

  /** Entries of a dict as they come. */
  private static final class Entries {
    private final PyDict dict = new PyDict();

    Entries put(String key, PyObject value) {
      dict.entries().add(new PyStr(key), value);
      return this;
    }

    /** The entry of another dict, or {@code value} if it has none. */
    Entries take(PickledValue from, String key, PyObject value) {
      PyEntries entries = from.entries();
      for (PyEntries.Entry entry : entries) {
        if (entry.key() instanceof PyStr name && name.value().equals(key)) {
          dict.entries().add(name, entry.value());
          return this;
        }
      }
      return put(key, value);
    }

    /** The loss scaling of a run without it, as {@code CreateLossScaler} makes it. */
    Entries takeScaling(PickledValue from) {
      PyDict scaler = new PyDict();
      scaler.entries().add(new PyStr("cur_scale"), new PyFloat(1));
      scaler.entries().add(new PyStr("dynamic"), PyBool.FALSE);
      return take(from, LOSS, PyInstance.newObject(LOSS_SCALER, scaler))
          .take(from, DYNAMIC, PyBool.FALSE)
          .take(from, OVERFLOW, PyBool.FALSE);
    }
  }

  /** Sets the stage of an optimizer file of ZeRO-1 or 2 to the other one of these. */
  public static void setFlatStage(OptimizerStates states, int stage) {
    DsConfig config = DsConfig.of(states.root());
    PickledValue old = states.stateDict();
    boolean bf16 = config.makesBf16Optimizer(stage);
    if (bf16 != states.isBf16Optimizer()) {
      Entries made = new Entries();
      if (!bf16) {
        made.takeScaling(old);
      }
      made.take(old, CLIP, config.gradientClipping())
          .take(old, BASE, PyNone.NONE)
          .take(old, MASTERS, PyNone.NONE);
      if (!bf16) {
        made.put(ZERO_STAGE, stageNode(stage, old));
      }
      Set<String> first = Set.of(LOSS, DYNAMIC, OVERFLOW, CLIP, BASE, MASTERS, ZERO_STAGE);
      List<PyEntries.Entry> all = made.dict.entries().list();
      for (PyEntries.Entry entry : old.entries()) {
        if (!(entry.key() instanceof PyStr key && first.contains(key.value()))) {
          all.add(entry);
        }
      }
      List<PyEntries.Entry> entries = old.entries().list();
      entries.clear();
      entries.addAll(all);
    } else if (!bf16 && states.stage() != stage) {
      old.entries().replace(ZERO_STAGE, stageNode(stage, old));
    }
    config.setStage(stage);
  }

  /** Sets the stage of a model file of ZeRO-1 or 2 to the other one of these. */
  public static void setFlatStage(ModelStates model, int stage) {
    PickledValue root = model.root();
    if (stage == 1) {
      root.entries().replace(ModelStates.FROZEN_SHAPES, PyNone.NONE);
      root.entries().replace(ModelStates.FROZEN_FRAGMENTS, PyNone.NONE);
    } else if (root.findPresent(ModelStates.FROZEN_SHAPES).isEmpty()
        && ModuleParameters.savedAtStage1(model)) {
      PyInstance shapes = orderedDict();
      PyInstance fragments = orderedDict();
      for (Map.Entry<String, TensorNode> weight : ModuleParameters.of(model).frozen().entrySet()) {
        PyStr name = new PyStr(weight.getKey());
        shapes.dictItems().add(name, size(weight.getValue().shape()));
        fragments.dictItems().add(name, GraphCopy.of(weight.getValue().node()));
      }
      root.entries().replace(ModelStates.FROZEN_SHAPES, shapes);
      root.entries().replace(ModelStates.FROZEN_FRAGMENTS, fragments);
    }
    DsConfig.of(root).setStage(stage);
  }

  private static PyInstance orderedDict() {
    return PyInstance.reduce(FlatOptimizerRewrite.ORDERED_DICT, PyTuple.of());
  }

  private static PyObject size(long[] shape) {
    List<PyInt> dimensions = new ArrayList<>();
    for (long dimension : shape) {
      dimensions.add(PyInt.of(dimension));
    }
    return PyInstance.reduce(SIZE, PyTuple.of(new PyTuple(dimensions)));
  }

  /** A rank's optimizer file of ZeRO-3, made from one of ZeRO-1 or 2. */
  static Rewritten shardedOptimizer(TorchFile template, ShardedLayout target, List<String> dsIds) {
    PyObject root = template.parse().root();
    OptimizerStates states = new OptimizerStates(PickledValue.root(template.path(), root));
    PickledValue old = states.stateDict();
    PickledValue base = old.get(BASE);
    List<PickledValue> groups = base.get("param_groups").items();
    Map<String, Rewritten.Storage> moved = new HashMap<>();
    List<PyEntries.Entry> stateEntries = new ArrayList<>();
    PyList flatGroups = new PyList();
    for (int g = 0; g < groups.size(); g++) {
      List<Integer> buckets = target.bucketsOf(g);
      Optional<PyObject> state = states.stateNode(g);
      PyObject master = null;
      List<String> names = new ArrayList<>();
      for (OptimizerStates.GroupTensor part : states.tensors(g)) {
        if (part.state().equals(States.MASTER)) {
          master = part.value().node();
        } else if (!Replicated.isReplicated(part.tensor())) {
          names.add(part.state());
        }
      }
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
    Entries made =
        new Entries()
            .put(ZERO_STAGE, stageNode(3, old))
            .takeScaling(old)
            .put(OptimizerFile.PARTITION_COUNT, PyInt.of(target.worldSize()))
            .put(WRAPPER, base.node())
            .put(OptimizerFile.FLAT_GROUPS, flatGroups);
    states.root().entries().replace(WRAPPER, made.dict);
    DsConfig.of(states.root()).setStage(3);
    return StorageList.of(template, root, moved);
  }

  /** The tensor with an attribute, as it is pickled then. */
  private static PyObject labelled(PyObject tensor, String dsId) {
    PyInstance rebuilt = (PyInstance) tensor;
    PyDict attributes = new PyDict();
    attributes.entries().add(new PyStr(ShardedStates.DS_ID), new PyStr(dsId));
    return PyInstance.reduce(
        REBUILD_TYPED, PyTuple.of(REBUILD, TENSOR, rebuilt.args(), attributes));
  }

  /** The tensor without the attributes that ZeRO-3 gives it. */
  private static PyObject unlabelled(PyObject tensor) {
    PyInstance made = (PyInstance) tensor;
    return ShardedStates.attributes(tensor).isPresent()
        ? PyInstance.reduce(
            ((PyTuple) made.args()).get(0), (PyTuple) ((PyTuple) made.args()).get(2))
        : tensor;
  }

  /** A rank's optimizer file of ZeRO-1 or 2, made from one of ZeRO-3. */
  public static Rewritten flatOptimizer(
      TorchFile template, ShardedLayout source, FlatLayout target, int rank, int stage) {
    PyObject root = template.parse().root();
    ShardedStates states = new ShardedStates(PickledValue.root(template.path(), root));
    DsConfig config = DsConfig.of(states.root());
    boolean bf16 = config.makesBf16Optimizer(stage);
    PickledValue old = states.stateDict();
    PickledValue base = states.optimizer();
    List<PickledValue> groups = states.paramGroups().items();
    Map<String, Rewritten.Storage> moved = new HashMap<>();
    List<PyEntries.Entry> stateEntries = new ArrayList<>();
    PyList masters = new PyList();
    PyList paddings = new PyList();
    PyList counts = new PyList();
    List<List<Long>> alignments = new ArrayList<>();
    PyList mappings = new PyList();
    FlatOptimizerRewrite.SliceMappings writer =
        new FlatOptimizerRewrite.SliceMappings(
            new PickledValue(template.path(), OptimizerStates.PARAM_SLICE_MAPPINGS, mappings));
    for (int g = 0; g < groups.size(); g++) {
      int first = source.bucketsOf(g).get(0);
      long partition = target.bucketElements(g);
      PyObject master = unlabelled(states.flatGroups().items().get(first).node());
      Optional<PickledValue> state = states.state(first);
      for (String name : states.partitions(source, first).keySet()) {
        boolean ofMasters = name.equals(States.MASTER);
        TensorNode tensor =
            TensorNode.of(ofMasters ? master : StateTensors.get(state.orElseThrow(), name).node())
                .orElseThrow();
        String key = "group " + g + " " + name;
        StorageKeys.move(tensor, key, partition);
        tensor.setGeometry(0, ofMasters && !bf16 ? target.cutElements(rank, g) : partition);
        moved.put(
            key,
            new Rewritten.Storage(
                key,
                partition * tensor.dtype().bytes(),
                new Rewritten.Content.PartitionOf(g, name)));
      }
      masters.items().add(master);
      boolean holds = !target.extentsIn(rank, g).isEmpty();
      if (state.isPresent() || holds) {
        // A group without state has an empty dict where its parameters were linked with it.
        stateEntries.add(
            new PyEntries.Entry(PyInt.of(g), state.map(PickledValue::node).orElseGet(PyDict::new)));
      }
      List<PyObject> params = ((PyList) groups.get(g).get("params").node()).items();
      params.clear();
      params.add(PyInt.of(g));
      paddings
          .items()
          .add(
              PyInt.of(bf16 ? target.paddingOnLastRank(rank, g) : target.recordedPadding(rank, g)));
      alignments.add(target.alignmentPaddings(g));
      counts.items().add(PyInt.of(target.partitionCount(g)));
      mappings.items().add(writer.mapping(target, target.recordedExtentsIn(rank, g)));
    }
    List<PyEntries.Entry> all = base.get("state").entries().list();
    all.clear();
    all.addAll(stateEntries);
    Entries made = new Entries();
    if (!bf16) {
      made.takeScaling(old);
    }
    made.put(CLIP, config.gradientClipping()).put(BASE, base.node()).put(MASTERS, masters);
    if (!bf16) {
      made.put(ZERO_STAGE, stageNode(stage, old));
    }
    made.put(OptimizerStates.GROUP_PADDINGS, paddings);
    if (FlatPaddings.recordsAlignments(DsVersion.in(states.root()), config, stage)) {
      made.put(ParameterAlignments.KEY, ParameterAlignments.node(alignments));
    }
    made.put(OptimizerFile.PARTITION_COUNT, counts)
        .take(states.root(), VERSION, PyNone.NONE)
        .put(OptimizerStates.PARAM_SLICE_MAPPINGS, mappings);
    states.root().entries().replace(WRAPPER, made.dict);
    config.setStage(stage);
    return StorageList.of(template, root, moved);
  }

  /**
   * A rank's model file of ZeRO-3, made from the one of ZeRO-1 or 2.
   *
   * @param frozen the frozen parameters at the target's size
   * @param sharesParameters whether to keep {@code shared_params}, which only rank 0 has
   */
  static Rewritten shardedModel(
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
    PyInstance shapes = orderedDict();
    PyInstance fragments = orderedDict();
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
      shapes.dictItems().add(label, size(weight.shape()));
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
    setShapes(model, target.buckets(), bucket -> names(target, bucket));
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

  /** Lists the same shapes anew. */
  private static void setShapes(
      ModelStates model, int buckets, java.util.function.IntFunction<List<String>> namesOf) {
    PickledValue shapes = model.root().get(ModelStates.PARAM_SHAPES);
    Map<String, PyEntries.Entry> byName = new HashMap<>();
    for (PickledValue group : shapes.items()) {
      for (PyEntries.Entry entry : group.entries()) {
        byName.put(((PyStr) entry.key()).value(), entry);
      }
    }
    List<PyObject> list = ((PyList) shapes.node()).items();
    list.clear();
    for (int b = 0; b < buckets; b++) {
      PyInstance bucket = orderedDict();
      namesOf.apply(b).forEach(name -> bucket.dictItems().list().add(byName.get(name)));
      list.add(bucket);
    }
  }

  /**
   * The model file of ZeRO-1 or 2, made from rank 0's of ZeRO-3.
   *
   * @param frozen the frozen parameters, whole
   */
  public static Rewritten flatModel(
      TorchFile template, FlatLayout target, ShardedLayout frozen, int stage) {
    PyObject root = template.parse().root();
    ModelStates model = new ModelStates(PickledValue.root(template.path(), root));
    PyEntries entries = model.root().entries();
    Map<String, Rewritten.Storage> moved = new HashMap<>();
    Map<String, Integer> trained = indices(target.parameters());
    Map<String, Integer> untrained = indices(frozen.parameters());
    Map<String, String> tied = ModuleParameters.tied(model);
    Set<String> buffers = model.bufferNames();
    model
        .module()
        .forEach(
            (name, weight) -> {
              String own = tied.getOrDefault(name, name);
              if (trained.containsKey(own)) {
                placeTrained(weight, target, trained.get(own), moved);
              } else if (untrained.containsKey(own)) {
                placeFrozen(
                    weight, frozen.parameters().get(untrained.get(own)), untrained.get(own), moved);
              } else if (weight.numel() == 0 && !buffers.contains(name)) {
                throw model
                    .root()
                    .get("module")
                    .refused(
                        "%s has 0 elements and is neither parameter nor buffer: ZeRO-3 emptied what it stands for, and the file does not tell what that is. Leave --targetStage out."
                            .formatted(name));
              }
            });
    setShapes(
        model,
        target.buckets(),
        group -> {
          List<String> names = new ArrayList<>();
          for (int p : target.flatOrder(group)) {
            names.add(target.parameters().get(p).name());
          }
          return names;
        });
    if (stage == 1) {
      entries.replace(ModelStates.FROZEN_SHAPES, PyNone.NONE);
      entries.replace(ModelStates.FROZEN_FRAGMENTS, PyNone.NONE);
    } else {
      Map<String, TensorNode> module = model.module();
      model
          .root()
          .findPresent(ModelStates.FROZEN_FRAGMENTS)
          .ifPresent(
              fragments -> {
                List<PyEntries.Entry> list = fragments.entries().list();
                for (int i = 0; i < list.size(); i++) {
                  PyStr name = (PyStr) list.get(i).key();
                  if (untrained.containsKey(name.value())) {
                    PyObject whole = GraphCopy.of(module.get(name.value()).node());
                    list.set(i, new PyEntries.Entry(name, whole));
                  }
                }
              });
    }
    entries.replace(ModelStates.DP_WORLD_SIZE, PyInt.of(target.worldSize()));
    DsConfig.of(model.root()).setStage(stage);
    return StorageList.of(template, root, moved);
  }

  private static Map<String, Integer> indices(List<Parameter> parameters) {
    Map<String, Integer> indices = new HashMap<>();
    for (int p = 0; p < parameters.size(); p++) {
      indices.put(parameters.get(p).name(), p);
    }
    return indices;
  }

  private static void placeTrained(
      TensorNode weight, FlatLayout target, int p, Map<String, Rewritten.Storage> moved) {
    Parameter parameter = target.parameters().get(p);
    int group = parameter.group();
    String key = "flat weights of group " + group;
    long elements = target.flatElements(group);
    StorageKeys.move(weight, key, elements);
    weight.setGeometry(target.flatStart(p), shape(parameter));
    moved.put(
        key,
        new Rewritten.Storage(
            key, elements * weight.dtype().bytes(), new Rewritten.Content.FlatWeights(group)));
  }

  private static void placeFrozen(
      TensorNode weight, Parameter parameter, int p, Map<String, Rewritten.Storage> moved) {
    String key = "frozen " + p;
    StorageKeys.move(weight, key, parameter.elements());
    weight.setGeometry(0, shape(parameter));
    moved.put(
        key,
        new Rewritten.Storage(
            key,
            parameter.elements() * weight.dtype().bytes(),
            new Rewritten.Content.PartitionOf(p, States.FROZEN)));
  }

  private static long[] shape(Parameter parameter) {
    return parameter.shape().stream().mapToLong(Long::longValue).toArray();
  }
}
