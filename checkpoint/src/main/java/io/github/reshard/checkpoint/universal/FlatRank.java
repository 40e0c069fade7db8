package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.ComposedStore.Composed;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import io.github.reshard.checkpoint.zero12.FlatOptimizerRewrite;
import io.github.reshard.checkpoint.zero12.OptimizerStates;
import io.github.reshard.checkpoint.zero12.RoundRobin;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** A Universal Checkpoint of ZeRO-1, 2 or BF16_Optimizer, as one rank would have saved it. */
final class FlatRank {
  /** What follows the tensors in an optimizer file. */
  private static final Set<String> BEHIND_TENSORS =
      Set.of("zero_stage", OptimizerStates.GROUP_PADDINGS, OptimizerFile.PARTITION_COUNT);

  private FlatRank() {}

  static UniversalSource.OneRank of(
      SourceStore store,
      UniversalTensors.Saved shared,
      UniversalTensors tensors,
      int mpRank,
      UniversalTensors.Saved modelFile,
      Map<String, TensorShares.Share> shares)
      throws IOException {
    FileStat modelStat = modelFile.stat();
    ModelStates model = UniversalSource.model(modelFile);
    int ranks = model.dpWorldSize();
    Optional<DsConfig> config = model.config();
    if (config.map(DsConfig::alignsParameters).orElse(false)) {
      throw model
          .root()
          .get("ds_config")
          .refused(
              "has parameter_alignment, with which Universal Checkpoints are not read. Convert the"
                  + " native checkpoint instead.");
    }
    boolean bf16 = shared.root().findPresent("zero_stage").isEmpty();
    boolean roundRobin = !bf16 && config.map(DsConfig::roundRobin).orElse(false);
    List<Parameter> parameters = new ArrayList<>();
    List<FlatLayout.Group> groups = new ArrayList<>();
    List<List<Parameter>> byGroup = new ArrayList<>();
    for (List<Parameter> flat : model.flatGroups()) {
      List<Parameter> original = roundRobin ? RoundRobin.undo(flat, ranks) : flat;
      parameters.addAll(original);
      byGroup.add(original);
      groups.add(FlatLayout.Group.dense(original.size(), 1));
    }
    FlatLayout alone = new FlatLayout(1, parameters, groups, false);
    ComposedGraph graph = new ComposedGraph(store, shared, tensors, shares);
    PyDict states = new PyDict();
    PyList masters = new PyList();
    PyList paddings = new PyList();
    PyList counts = new PyList();
    PyList mappings = new PyList();
    FlatOptimizerRewrite.SliceMappings writer =
        new FlatOptimizerRewrite.SliceMappings(new PickledValue("", "", mappings));
    PickledValue paramGroups = shared.root().get(UniversalState.PARAM_GROUPS);
    if (paramGroups.items().size() != groups.size()) {
      throw paramGroups.refused(
          "has %d param groups, param_shapes of the model file has %d. The files do not belong together."
              .formatted(paramGroups.items().size(), groups.size()));
    }
    for (int g = 0; g < groups.size(); g++) {
      ComposedGraph.Flat flat =
          graph.flat("group " + g, byGroup.get(g), alone.bucketElements(g), 0);
      PyDict common = graph.common("group " + g, saved(shared, g), byGroup.get(g));
      states.entries().add(PyInt.of(g), flat.state(common));
      masters
          .items()
          .add(
              flat.tensor(States.MASTER, bf16 ? alone.bucketElements(g) : alone.cutElements(0, g)));
      paddings.items().add(PyInt.of(alone.padding(0, g)));
      counts.items().add(PyInt.of(1));
      mappings.items().add(writer.mapping(alone, alone.recordedExtentsIn(0, g)));
    }
    PyDict base = new PyDict();
    base.entries().add(new PyStr(UniversalState.STATE), states);
    base.entries()
        .add(
            new PyStr(UniversalState.PARAM_GROUPS),
            numbered(graph.take(shared, paramGroups.node())));
    PyDict made = new PyDict();
    for (PyEntries.Entry entry : shared.root().entries()) {
      String key = entry.key() instanceof PyStr name ? name.value() : "";
      if (BEHIND_TENSORS.contains(key)) {
        addTensors(made, base, masters);
      }
      if (key.equals(OptimizerStates.GROUP_PADDINGS)) {
        made.entries().add(entry.key(), paddings);
      } else if (key.equals(OptimizerFile.PARTITION_COUNT)) {
        made.entries().add(entry.key(), counts);
      } else if (!key.equals(UniversalState.PARAM_GROUPS)
          && !key.equals(UniversalState.INNER)
          && !key.equals("param_alignment_paddings")) {
        made.entries().add(entry.key(), graph.take(shared, entry.value()));
      }
    }
    addTensors(made, base, masters);
    if (made.get(OptimizerStates.GROUP_PADDINGS) == null) {
      made.entries().add(new PyStr(OptimizerStates.GROUP_PADDINGS), paddings);
    }
    if (made.get(OptimizerFile.PARTITION_COUNT) == null) {
      made.entries().add(new PyStr(OptimizerFile.PARTITION_COUNT), counts);
    }
    made.entries().add(new PyStr(OptimizerStates.PARAM_SLICE_MAPPINGS), mappings);
    String directory =
        modelStat.path().substring(0, modelStat.path().length() - modelStat.name().length());
    Composed optimizer =
        graph.file(
            directory
                + UniversalSource.prefix(model)
                + "zero_pp_rank_0_mp_rank_%02d_optim_states.pt".formatted(mpRank),
            wrapped(graph, modelFile, made));
    Set<String> names = new HashSet<>();
    parameters.forEach(parameter -> names.add(parameter.name()));
    return new UniversalSource.OneRank(
        ranks == 1 ? Optional.empty() : Optional.of(aloneModel(store, modelFile, byGroup)),
        optimizer,
        names);
  }

  /** As {@code save_checkpoint} wraps it. */
  static PyDict wrapped(ComposedGraph graph, UniversalTensors.Saved model, PyDict stateDict)
      throws IOException {
    PyDict root = new PyDict();
    root.entries().add(new PyStr(UniversalState.INNER), stateDict);
    for (String key : List.of("ds_config", "ds_version")) {
      PyObject value = model.root().entries().get(key);
      if (value != null) {
        root.entries().add(new PyStr(key), graph.take(model, value));
      }
    }
    return root;
  }

  private static void addTensors(PyDict made, PyDict base, PyList masters) {
    if (made.get("base_optimizer_state") == null) {
      made.entries().add(new PyStr("base_optimizer_state"), base);
      made.entries().add(new PyStr("single_partition_of_fp32_groups"), masters);
    }
  }

  /** Each group has one parameter, its partition. */
  private static PyObject numbered(PyObject groups) {
    List<PyObject> items = ((PyList) groups).items();
    for (int g = 0; g < items.size(); g++) {
      PyEntries entries = ((PyDict) items.get(g)).entries();
      PyList params = PyList.of(List.of(PyInt.of(g)));
      if (entries.contains("params")) {
        entries.replace("params", params);
      } else {
        entries.add(new PyStr("params"), params);
      }
    }
    return groups;
  }

  private static Optional<PickledValue> saved(UniversalTensors.Saved shared, int group) {
    Optional<PickledValue> states =
        shared
            .root()
            .findPresent(UniversalState.INNER)
            .filter(PickledValue::isDict)
            .flatMap(inner -> inner.findPresent(UniversalState.STATE))
            .filter(PickledValue::isDict);
    return states.map(
        all -> {
          PyObject found = all.entries().get((long) group);
          return found == null
              ? null
              : new PickledValue(shared.file().path(), "state[" + group + "]", found);
        });
  }

  /** The model file with the parameters in their original order, as one rank lists them. */
  private static Composed aloneModel(
      SourceStore store, UniversalTensors.Saved file, List<List<Parameter>> groups)
      throws IOException {
    PickledValue root = file.root();
    ModelStates model = new ModelStates(root);
    root.entries().replace(ModelStates.DP_WORLD_SIZE, PyInt.of(1));
    List<PickledValue> shapes = root.get(ModelStates.PARAM_SHAPES).items();
    for (int g = 0; g < groups.size(); g++) {
      List<PyEntries.Entry> entries = shapes.get(g).entries().list();
      Map<String, PyEntries.Entry> byName = new HashMap<>();
      entries.forEach(entry -> byName.put(((PyStr) entry.key()).value(), entry));
      entries.clear();
      groups.get(g).forEach(parameter -> entries.add(byName.get(parameter.name())));
    }
    return ComposedGraph.model(
        store, file, StorageList.of(file.file(), model.root().node(), Map.of()), Map.of());
  }
}
