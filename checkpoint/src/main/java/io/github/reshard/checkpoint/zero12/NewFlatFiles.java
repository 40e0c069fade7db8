package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.DsVersion;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ModuleParameters;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.pickle.DictBuilder;
import io.github.reshard.checkpoint.pickle.GraphCopy;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.stream.Stream;

/**
 * Files of ZeRO-1 and 2 made from those of another stage (DeepSpeed 0.19.6, {@code state_dict} of
 * runtime/zero/stage_1_and_2.py and bf16_optimizer.py; {@code _common_checkpoint_state} of
 * runtime/engine.py).
 */
final class NewFlatFiles {
  private NewFlatFiles() {}

  /** A rank's optimizer file of ZeRO-1 or 2, made from one of ZeRO-3. */
  static Rewritten optimizer(
      TorchFile template, OptimizerValues values, FlatLayout target, int rank, int stage) {
    DsConfig config = DsConfig.of(values.root());
    boolean bf16 = config.makesBf16Optimizer(stage);
    PickledValue base = values.inner();
    List<PickledValue> groups = values.paramGroups();
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
      OptimizerValues.Group group = values.groups().get(g);
      long partition = target.bucketElements(g);
      PyObject master = group.master();
      Optional<PyObject> state = group.state();
      for (String name : Stream.concat(Stream.of(States.MASTER), group.cut().stream()).toList()) {
        boolean ofMasters = name.equals(States.MASTER);
        TensorNode tensor =
            TensorNode.of(
                    ofMasters
                        ? master
                        : StateTensors.get(
                                new PickledValue(template.path(), "", state.orElseThrow()), name)
                            .node())
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
        stateEntries.add(new PyEntries.Entry(PyInt.of(g), state.orElseGet(PyDict::new)));
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
    OptimizerFile file = new OptimizerFile(values.root());
    DictBuilder made = new DictBuilder();
    if (!bf16) {
      file.takeScaling(made);
    }
    made.put(OptimizerStates.CLIP, config.gradientClipping())
        .put(OptimizerStates.BASE_STATE, base.node())
        .put(OptimizerStates.MASTERS, masters);
    if (!bf16) {
      made.put(OptimizerFile.ZERO_STAGE, file.stageNode(stage));
    }
    made.put(OptimizerStates.GROUP_PADDINGS, paddings);
    if (FlatPaddings.recordsAlignments(DsVersion.in(values.root()), config, stage)) {
      made.put(ParameterAlignments.KEY, ParameterAlignments.node(alignments));
    }
    made.put(OptimizerFile.PARTITION_COUNT, counts)
        .take(values.root().entries(), OptimizerFile.VERSION, PyNone.NONE)
        .put(OptimizerStates.PARAM_SLICE_MAPPINGS, mappings);
    values.root().entries().replace(OptimizerFile.WRAPPER, made.dict());
    config.setStage(stage);
    return StorageList.of(template, values.root().node(), moved);
  }

  /**
   * The model file of ZeRO-1 or 2, made from rank 0's of ZeRO-3.
   *
   * @param frozen the frozen parameters, whole
   */
  static Rewritten model(TorchFile template, FlatLayout target, List<Parameter> frozen, int stage) {
    PyObject root = template.parse().root();
    ModelStates model = new ModelStates(PickledValue.root(template.path(), root));
    PyEntries entries = model.root().entries();
    Map<String, Rewritten.Storage> moved = new HashMap<>();
    Map<String, Integer> trained = indices(target.parameters());
    Map<String, Integer> untrained = indices(frozen);
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
                placeFrozen(weight, frozen.get(untrained.get(own)), untrained.get(own), moved);
              } else if (weight.numel() == 0 && !buffers.contains(name)) {
                throw model
                    .root()
                    .get("module")
                    .refused(
                        "%s has 0 elements and is neither parameter nor buffer: ZeRO-3 emptied what it stands for, and the file does not tell what that is. Leave --targetStage out."
                            .formatted(name));
              }
            });
    model.setShapes(
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
