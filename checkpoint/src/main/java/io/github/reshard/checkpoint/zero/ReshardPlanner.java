package io.github.reshard.checkpoint.zero;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.layout.Extent;
import io.github.reshard.checkpoint.layout.FlatLayout;
import io.github.reshard.checkpoint.layout.Parameter;
import io.github.reshard.checkpoint.layout.RoundRobin;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.plan.Address;
import io.github.reshard.checkpoint.plan.ParamId;
import io.github.reshard.checkpoint.plan.PartitionedModel;
import io.github.reshard.checkpoint.plan.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.plan.PartitionedModel.Partition;
import io.github.reshard.checkpoint.plan.Recipe;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.States;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.stream.IntStream;

/** Reads the metadata of a ZeRO-1 or 2 checkpoint and plans its reshard. */
public final class ReshardPlanner {
  private final SourceStore store;
  private final CheckpointFiles files;
  private final int targetWorldSize;
  private final PlanBuilder plan = new PlanBuilder();
  private int sourceWorldSize;

  private ReshardPlanner(SourceStore store, CheckpointFiles files, int targetWorldSize) {
    this.store = store;
    this.files = files;
    this.targetWorldSize = targetWorldSize;
  }

  /**
   * Plans the reshard of {@code files} to {@code targetWorldSize} data-parallel ranks.
   *
   * @param partBytes the size of a part of a target file
   * @throws RefusedException if the checkpoint is not whole, contradicts itself, or holds what is
   *     not understood
   */
  public static ReshardPlan plan(
      SourceStore store, CheckpointFiles files, int targetWorldSize, long partBytes)
      throws IOException {
    return new ReshardPlanner(store, files, targetWorldSize).plan(partBytes);
  }

  private ReshardPlan plan(long partBytes) throws IOException {
    requireKnownKind();
    Map<String, TorchFile> layers = new LinkedHashMap<>();
    Map<String, Integer> layerSources = new HashMap<>();
    for (FileStat layer : files.layers()) {
      TorchFile file = read(layer);
      int source = plan.addSource(layer, file);
      layers.put(layer.name(), file);
      layerSources.put(layer.name(), source);
      plan.copyAsIs(files.tag() + "/" + layer.name(), source);
    }
    for (Map.Entry<Integer, FileStat> model : files.models().entrySet()) {
      planMpRank(model.getKey(), model.getValue(), layers, layerSources);
    }
    files.others().forEach(other -> plan.copyAsIs(other.path(), other.stat()));
    files.beside().forEach(other -> plan.copyAsIs(other.path(), other.stat()));
    return new ReshardPlan(
        files.directory() + "/" + files.tag(),
        files.tag(),
        sourceWorldSize,
        targetWorldSize,
        plan.sources,
        plan.targets,
        plan.models,
        plan.carried,
        plan.padding,
        plan.notes,
        partBytes);
  }

  private void requireKnownKind() {
    String where = files.directory() + "/" + files.tag();
    if (!files.rankModels().isEmpty()) {
      throw new RefusedException(where, "this is a ZeRO-3 checkpoint, which is not supported yet.");
    }
    if (!files.experts().isEmpty()) {
      throw new RefusedException(
          where, "this is a checkpoint of a mixture of experts, which is not supported yet.");
    }
    if (files.models().isEmpty() || files.optimizers().isEmpty()) {
      throw new RefusedException(
          where,
          "expected mp_rank_*_model_states.pt and zero_pp_rank_*_optim_states.pt, found %d and %d of them."
              .formatted(files.models().size(), files.optimizers().size()));
    }
    if (!files.models().keySet().equals(files.optimizers().keySet())) {
      throw new RefusedException(
          where,
          "model files are there of the mp ranks %s, optimizer files of %s; they must be the same."
              .formatted(files.models().keySet(), files.optimizers().keySet()));
    }
  }

  private TorchFile read(FileStat stat) throws IOException {
    try (RangedFile file = store.open(stat)) {
      return TorchFile.read(file);
    }
  }

  /** One source rank's optimizer file. */
  private record Shard(int source, TorchFile file, OptimizerStates states) {}

  private void planMpRank(
      int mpRank,
      FileStat modelStat,
      Map<String, TorchFile> layers,
      Map<String, Integer> layerSources)
      throws IOException {
    TorchFile modelFile = read(modelStat);
    int modelSource = plan.addSource(modelStat, modelFile);
    ModelStates model =
        new ModelStates(PickledValue.root(modelFile.path(), modelFile.parse().root()));
    int ranks = model.dpWorldSize();
    if (sourceWorldSize != 0 && sourceWorldSize != ranks) {
      throw new RefusedException(
          modelStat.path(),
          "dp_world_size is %d, another mp rank's is %d. The files are of different checkpoints."
              .formatted(ranks, sourceWorldSize));
    }
    sourceWorldSize = ranks;
    List<Shard> shards = readShards(mpRank, modelStat, files.optimizers().get(mpRank), ranks);

    boolean roundRobin =
        ranks > 0 && model.roundRobin() && !shards.get(0).states().isBf16Optimizer();
    List<Parameter> parameters = new ArrayList<>();
    List<Integer> groupSizes = new ArrayList<>();
    for (List<Parameter> flat : model.flatGroups()) {
      parameters.addAll(roundRobin ? RoundRobin.undo(flat, ranks) : flat);
      groupSizes.add(flat.size());
    }
    FlatLayout source = layout(ranks, parameters, groupSizes, roundRobin);
    FlatLayout target = layout(targetWorldSize, parameters, groupSizes, roundRobin);

    List<Map<String, DType>> states = new ArrayList<>();
    Map<Partition, Address> sourcePartitions = new HashMap<>();
    for (int rank = 0; rank < ranks; rank++) {
      addPartitions(shards.get(rank), rank, source, states, sourcePartitions);
    }

    int index = plan.models.size();
    List<Recipe.GroupRef> groups =
        IntStream.range(0, groupSizes.size()).mapToObj(g -> new Recipe.GroupRef(index, g)).toList();
    Map<Partition, Address> targetPartitions = new HashMap<>();
    List<ModuleWeight> weights = new ArrayList<>();
    PartitionedModel partitioned =
        new PartitionedModel(
            mpRank,
            ParamId.NO_EXPERT,
            source,
            target,
            states,
            sourcePartitions,
            targetPartitions,
            weights);
    plan.addModel(partitioned);
    requireReplicasAgree(shards, source);

    planModelFile(modelStat, modelFile, modelSource, groups, partitioned);
    addLayerWeights(model, partitioned, layers, layerSources);
    for (int rank = 0; rank < targetWorldSize; rank++) {
      planOptimizerFile(shards, rank, groups, partitioned);
    }
    addPadding(index, partitioned);
    if (roundRobin) {
      plan.notes.add(
          "round_robin_gradients: param_slice_mappings are written as DeepSpeed writes them, which is not where the parameters are. "
              + "load_checkpoint ignores them; ds_to_universal.py would scramble this checkpoint.");
    }
  }

  private static FlatLayout layout(
      int ranks, List<Parameter> parameters, List<Integer> groupSizes, boolean roundRobin) {
    return new FlatLayout(
        ranks,
        parameters,
        groupSizes.stream().map(size -> FlatLayout.Group.dense(size, ranks)).toList(),
        roundRobin);
  }

  private List<Shard> readShards(
      int mpRank, FileStat modelStat, SortedMap<Integer, FileStat> stats, int ranks)
      throws IOException {
    List<Integer> missing =
        IntStream.range(0, ranks).filter(r -> !stats.containsKey(r)).boxed().toList();
    List<Integer> extra = stats.keySet().stream().filter(r -> r >= ranks).toList();
    if (!missing.isEmpty() || !extra.isEmpty()) {
      throw new RefusedException(
          files.directory() + "/" + files.tag(),
          "%s says dp_world_size %d, but of mp rank %d the optimizer files of ranks %s are missing and those of ranks %s are too many."
              .formatted(modelStat.name(), ranks, mpRank, missing, extra));
    }
    List<Shard> shards = new ArrayList<>();
    for (FileStat stat : stats.values()) {
      TorchFile file = read(stat);
      OptimizerStates states =
          new OptimizerStates(PickledValue.root(file.path(), file.parse().root()));
      if (states.stage() != 1 && states.stage() != 2) {
        throw new RefusedException(
            stat.path(),
            "zero_stage is %d beside model files of ZeRO-1 or 2.".formatted(states.stage()));
      }
      shards.add(new Shard(plan.addSource(stat, file), file, states));
    }
    return shards;
  }

  /** Checks a shard against the layout and notes where its partitions are. */
  private void addPartitions(
      Shard shard,
      int rank,
      FlatLayout layout,
      List<Map<String, DType>> states,
      Map<Partition, Address> partitions) {
    OptimizerStates optimizer = shard.states();
    if (optimizer.groups() != layout.buckets()) {
      throw new RefusedException(
          shard.file().path(),
          "has %d param groups, the model file's param_shapes has %d."
              .formatted(optimizer.groups(), layout.buckets()));
    }
    requireEqual(
        optimizer,
        OptimizerStates.PARTITION_COUNT,
        optimizer.partitionCounts(),
        IntStream.range(0, layout.buckets())
            .mapToObj(g -> (long) layout.partitionCount(g))
            .toList());
    requireEqual(
        optimizer,
        OptimizerStates.GROUP_PADDINGS,
        optimizer.numbers(OptimizerStates.GROUP_PADDINGS),
        IntStream.range(0, layout.buckets())
            .mapToObj(
                g ->
                    optimizer.isBf16Optimizer()
                        ? layout.paddingOnLastRank(rank, g)
                        : layout.padding(rank, g))
            .toList());
    requireSliceMappings(optimizer, rank, layout);
    for (int g = 0; g < layout.buckets(); g++) {
      Map<String, DType> types = new LinkedHashMap<>();
      for (OptimizerStates.GroupTensor part : optimizer.tensors(g)) {
        TensorNode tensor = part.tensor();
        if (Replicated.isReplicated(tensor)) {
          continue;
        }
        long padded = layout.bucketElements(g);
        long expected = part.cut() ? padded - layout.padding(rank, g) : padded;
        if (tensor.shape().length != 1 || tensor.numel() != expected || !tensor.isContiguous()) {
          throw part.value()
              .refused(
                  "expected the %d elements of this rank's partition of param group %d, found a tensor of shape %s. State that is not one number for each weight is not supported."
                      .formatted(expected, g, Arrays.toString(tensor.shape())));
        }
        types.put(part.state(), tensor.dtype());
        partitions.put(new Partition(rank, g, part.state()), address(shard, part.value()));
      }
      if (rank == 0) {
        states.add(types);
      } else if (!types.equals(states.get(g))) {
        throw new RefusedException(
            shard.file().path(),
            "param group %d has the states %s, on rank 0 it has %s. The files are of different runs."
                .formatted(g, types, states.get(g)));
      }
    }
  }

  private static void requireEqual(
      OptimizerStates optimizer, String key, List<Long> found, List<Long> expected) {
    if (!found.equals(expected)) {
      throw optimizer
          .stateDict()
          .get(key)
          .refused(
              "expected %s from the model file's shapes and dp_world_size, found %s. The files do not belong together."
                  .formatted(expected, found));
    }
  }

  private static void requireSliceMappings(OptimizerStates optimizer, int rank, FlatLayout layout) {
    if (optimizer.stateDict().findPresent(OptimizerStates.PARAM_SLICE_MAPPINGS).isEmpty()) {
      return;
    }
    List<PickledValue> groups =
        optimizer.stateDict().get(OptimizerStates.PARAM_SLICE_MAPPINGS).items();
    for (int g = 0; g < layout.buckets(); g++) {
      List<String> expected =
          layout.recordedExtentsIn(rank, g).stream()
              .map(
                  (Extent e) ->
                      layout.parameters().get(e.parameter()).name()
                          + " start="
                          + e.bucketStart()
                          + " numel="
                          + e.elements())
              .toList();
      List<String> found = new ArrayList<>();
      for (PickledValue.Entry entry : groups.get(g).children()) {
        PyObject fields =
            entry.value().node() instanceof PyInstance made ? made.state() : entry.value().node();
        PickledValue address = new PickledValue(entry.value().file(), entry.value().path(), fields);
        found.add(
            entry.key()
                + " start="
                + address.get("start").asLong()
                + " numel="
                + address.get("numel").asLong());
      }
      if (!found.equals(expected)) {
        throw groups
            .get(g)
            .refused(
                "the slices are not those that follow from the model file: expected %s, found %s."
                    .formatted(firstDifferent(expected, found), firstDifferent(found, expected)));
      }
    }
  }

  private static String firstDifferent(List<String> of, List<String> other) {
    for (int i = 0; i < of.size(); i++) {
      if (i >= other.size() || !of.get(i).equals(other.get(i))) {
        return of.get(i);
      }
    }
    return "nothing more";
  }

  private static Address address(Shard shard, PickledValue value) {
    return address(shard.source(), shard.file(), value.where(), value.tensor());
  }

  private static Address address(int source, TorchFile file, String where, TensorNode tensor) {
    tensor.requireInBounds(where);
    for (int e = 0; e < file.entries().size(); e++) {
      TorchFile.Entry entry = file.entries().get(e);
      if (file.storage(tensor.storageKey()).filter(entry::equals).isPresent()) {
        long bytes = tensor.storageElements() * tensor.dtype().bytes();
        if (entry.bytes() != bytes) {
          throw new RefusedException(
              where,
              "the pickle says that storage '%s' has %d bytes, the zip entry %s has %d. The file is damaged."
                  .formatted(tensor.storageKey(), bytes, entry.name(), entry.bytes()));
        }
        return new Address(
            source, e, entry.payloadOffset() + tensor.storageOffset() * tensor.dtype().bytes());
      }
    }
    throw new RefusedException(
        where, "the file has no storage '%s'. It is damaged.".formatted(tensor.storageKey()));
  }

  /** What is not partitioned must be the same on all ranks. */
  private void requireReplicasAgree(List<Shard> shards, FlatLayout layout) throws IOException {
    ReplicaComparison comparison = new ReplicaComparison(store, plan.sources, layout);
    for (int rank = 0; rank < shards.size(); rank++) {
      Shard shard = shards.get(rank);
      comparison.add(rank, shard.source(), shard.file()).ifPresent(plan.notes::add);
    }
  }

  private void planModelFile(
      FileStat stat,
      TorchFile file,
      int source,
      List<Recipe.GroupRef> groups,
      PartitionedModel model) {
    Recipe recipe = new Recipe.ModelFile(source, groups);
    TargetFiles.Planned planned =
        TargetFiles.plan(file, stat.name(), recipe, plan.models, sourceWorldSize, targetWorldSize);
    int target =
        plan.addTarget(
            files.tag() + "/" + stat.name(), recipe, planned.layout(), planned.storages());
    TargetFile targetFile = plan.targets.get(target);
    ModelStates states = new ModelStates(PickledValue.root(file.path(), file.parse().root()));
    Map<String, TensorNode> module = states.module();
    FlatLayout from = (FlatLayout) model.source();
    FlatLayout to = (FlatLayout) model.target();
    Map<Integer, Address> flat = new HashMap<>();
    for (int e = 0; e < planned.storages().size(); e++) {
      TargetFile.Entry entry = targetFile.entries().get(e);
      Address begin = new Address(target, e, entry.offset());
      Rewritten.Content content = planned.storages().get(e).content();
      if (content instanceof Rewritten.Content.Carried carried) {
        plan.carry(storageAddress(source, file, carried.sourceKey()), begin, entry.bytes());
      } else if (content instanceof Rewritten.Content.FlatWeights weights) {
        flat.put(weights.group(), begin);
        DType dtype =
            module.get(from.parameters().get(from.flatOrder(weights.group())[0]).name()).dtype();
        long data = to.groupElements(weights.group()) * dtype.bytes();
        if (data < entry.bytes()) {
          plan.carried.add(
              SliceCopy.padding(begin.plus(data), entry.bytes() - data, 0, dtype.bytes()));
        }
      }
    }
    for (int p = 0; p < model.parameters().size(); p++) {
      Parameter parameter = model.parameters().get(p);
      TensorNode weight = module.get(parameter.name());
      if (weight == null) {
        model.weights().add(null);
        continue;
      }
      String where = file.path() + ", module." + parameter.name();
      Address address = weightAddress(source, file, where, parameter, weight);
      Address group = flat.get(parameter.group());
      model
          .weights()
          .add(
              new ModuleWeight(
                  weight.dtype(),
                  address,
                  group == null ? null : group.plus(to.flatStart(p) * weight.dtype().bytes())));
    }
  }

  private static Address weightAddress(
      int source, TorchFile file, String where, Parameter parameter, TensorNode weight) {
    if (!parameter.hasShape(weight.shape()) || !weight.isContiguous()) {
      throw new RefusedException(
          where,
          "the weight has shape %s, param_shapes says %s. The files do not belong together."
              .formatted(Arrays.toString(weight.shape()), parameter.shape()));
    }
    return address(source, file, where, weight);
  }

  private static Address storageAddress(int source, TorchFile file, String key) {
    TorchFile.Entry entry = file.storage(key).orElseThrow();
    return new Address(source, file.entries().indexOf(entry), entry.payloadOffset());
  }

  /**
   * In pipeline runs a parameter {@code 3.fc.weight} is {@code fc.weight} in the file of layer 3
   * (DeepSpeed 0.19.6, runtime/pipe/module.py, {@code save_state_dict}).
   */
  private void addLayerWeights(
      ModelStates states,
      PartitionedModel model,
      Map<String, TorchFile> layers,
      Map<String, Integer> layerSources) {
    int tensorRanks =
        layers.keySet().stream()
            .mapToInt(name -> CheckpointFiles.LayerName.parse(name).tensorRank() + 1)
            .max()
            .orElse(1);
    int tensorRank = model.mpRank() % tensorRanks;
    Map<String, ModuleWeight> found = new HashMap<>();
    layers.forEach(
        (name, file) -> {
          CheckpointFiles.LayerName layer = CheckpointFiles.LayerName.parse(name);
          if (layer.tensorRank() != tensorRank) {
            return;
          }
          for (PickledValue.Entry entry :
              PickledValue.root(file.path(), file.parse().root()).children()) {
            String parameterName = layer.layer() + "." + entry.key();
            for (Parameter parameter : model.parameters()) {
              if (parameter.name().equals(parameterName) && entry.value().asTensor().isPresent()) {
                TensorNode weight = entry.value().tensor();
                Address address =
                    weightAddress(
                        layerSources.get(name), file, entry.value().where(), parameter, weight);
                found.put(parameterName, new ModuleWeight(weight.dtype(), address, null));
              }
            }
          }
        });
    int unproven = 0;
    for (int p = 0; p < model.parameters().size(); p++) {
      if (model.weights().get(p) == null) {
        model.weights().set(p, found.get(model.parameters().get(p).name()));
        unproven += model.weights().get(p) == null ? 1 : 0;
      }
    }
    if (unproven > 0) {
      plan.notes.add(
          "%s: %d of %d parameters have no weight in the model files; their order could not be proven against it."
              .formatted(states.root().file(), unproven, model.parameters().size()));
    }
  }

  private void planOptimizerFile(
      List<Shard> shards, int rank, List<Recipe.GroupRef> groups, PartitionedModel model) {
    Shard template = shards.get(rank < shards.size() ? rank : 0);
    FileStat stat = plan.sources.get(template.source()).stat();
    int templateRank = rank < shards.size() ? rank : 0;
    String name =
        stat.name()
            .replaceFirst("zero_pp_rank_" + templateRank + "_", "zero_pp_rank_" + rank + "_");
    Recipe recipe = new Recipe.OptimizerFile(template.source(), rank, groups);
    TargetFiles.Planned planned =
        TargetFiles.plan(
            template.file(), name, recipe, plan.models, sourceWorldSize, targetWorldSize);
    int target =
        plan.addTarget(files.tag() + "/" + name, recipe, planned.layout(), planned.storages());
    for (int e = 0; e < planned.storages().size(); e++) {
      TargetFile.Entry entry = plan.targets.get(target).entries().get(e);
      Address begin = new Address(target, e, entry.offset());
      Rewritten.Content content = planned.storages().get(e).content();
      if (content instanceof Rewritten.Content.Carried carried) {
        plan.carry(
            storageAddress(template.source(), template.file(), carried.sourceKey()),
            begin,
            entry.bytes());
      } else if (content instanceof Rewritten.Content.PartitionOf partition) {
        model
            .targetPartitions()
            .put(new Partition(rank, partition.group(), partition.state()), begin);
      }
    }
  }

  /**
   * Reads what the source's padding holds: an optimizer may begin its state at another value than
   * zero.
   */
  private void addPadding(int index, PartitionedModel model) throws IOException {
    PaddingReader reader = new PaddingReader(store, plan.sources);
    for (int g = 0; g < model.states().size(); g++) {
      for (Map.Entry<String, DType> state : model.states().get(g).entrySet()) {
        if (!state.getKey().equals(States.MASTER)) {
          long bits = reader.uniformBits(model, g, state.getKey(), state.getValue());
          if (bits != 0) {
            plan.padding.add(new ReshardPlan.Padding(index, g, state.getKey(), bits));
          }
        }
      }
    }
  }
}
