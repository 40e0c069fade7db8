package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ExpertNames;
import io.github.reshard.checkpoint.deepspeed.ExpertsPresent;
import io.github.reshard.checkpoint.deepspeed.MissingWeights;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.PlanBuilder;
import io.github.reshard.checkpoint.deepspeed.RanksPresent;
import io.github.reshard.checkpoint.deepspeed.ReplicaComparison;
import io.github.reshard.checkpoint.deepspeed.SavedKinds;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SortedMap;
import java.util.stream.Stream;

/** Plans the reshard of a checkpoint of ZeRO-1 or 2, mixtures of experts among them. */
public final class FlatPlanner {
  public static final String ROUND_ROBIN_NOTE =
      "round_robin_gradients: param_slice_mappings are written as DeepSpeed writes them, which is not where the parameters are. "
          + "load_checkpoint ignores them; ds_to_universal.py would scramble this checkpoint.";

  private final PlanBuilder plan;
  private final Map<String, TorchFile> layers = new LinkedHashMap<>();
  private final Map<String, TorchFile> experts = new LinkedHashMap<>();
  private final IdentityHashMap<TorchFile, Integer> sources = new IdentityHashMap<>();

  /** The ZeRO stage of the target, or as saved. */
  private int stage = ZeroStage.AS_SAVED;

  private Optional<? extends FlatOutput> other = Optional.empty();
  private FlatOutput toStage3;

  public FlatPlanner(PlanBuilder plan) {
    this.plan = plan;
  }

  /**
   * Adds what every mp rank needs.
   *
   * @param other what writes it, if that is not files of ZeRO
   * @param toStage3 what writes it if it is turned to ZeRO-3
   * @throws RefusedException if the files contradict each other
   */
  public static void plan(
      PlanBuilder plan, Optional<? extends FlatOutput> other, FlatOutput toStage3)
      throws IOException {
    FlatPlanner planner = new FlatPlanner(plan);
    planner.other = other;
    planner.toStage3 = toStage3;
    planner.carryWhole(plan.files.layers(), planner.layers);
    planner.carryWhole(plan.files.experts(), planner.experts);
    for (Map.Entry<Integer, FileStat> model : plan.files.models().entrySet()) {
      planner.planMpRank(model.getKey(), model.getValue());
    }
  }

  private void carryWhole(List<FileStat> stats, Map<String, TorchFile> into) throws IOException {
    plan.readEach(stats, (stat, file) -> carryWhole(stat, file, into));
  }

  private void carryWhole(FileStat stat, TorchFile file, Map<String, TorchFile> into) {
    if (stat.name().startsWith("expp_rank_")
        && !StorageKeys.tensors(file.path(), file.parse().root()).isEmpty()) {
      throw new RefusedException(
          stat.path(),
          "holds the optimizer of a run without ZeRO, which nothing partitions. Save the checkpoint from a run at ZeRO-1 or 2.");
    }
    int source = plan.addSource(stat, file);
    into.put(stat.name(), file);
    sources.put(file, source);
    plan.copyAsIs(plan.targetTag + "/" + stat.name(), source);
  }

  /** The models of an mp rank, by expert-parallel size and expert-parallel rank. */
  public record Models(ParamGroups groups, Map<Integer, List<Integer>> indices) {
    /** For each param group of the file of {@code rank}, the partitioned group. */
    public List<FileGroup> refs(PlanBuilder plan, int rank, int worldSize) {
      List<FileGroup> refs = new ArrayList<>();
      for (int g = 0; g < groups.groups().size(); g++) {
        int size = groups.groups().get(g).expertParallelSize();
        int expertRank = size == ParamGroups.DENSE ? 0 : groups.expertRank(rank, worldSize, size);
        int model = indices.get(size).get(expertRank);
        int group = groups.indices(size).indexOf(g);
        refs.add(new FileGroup(plan.models.get(model), group, new GroupRef(model, group)));
      }
      return refs;
    }
  }

  private void planMpRank(int mpRank, FileStat modelStat) throws IOException {
    TorchFile modelFile = plan.read(modelStat);
    int modelSource = plan.addSource(modelStat, modelFile);
    ModelStates model =
        new ModelStates(PickledValue.root(modelFile.path(), modelFile.parse().root()));
    int ranks = model.dpWorldSize();
    plan.setSourceWorldSize(modelStat, ranks);
    plan.steps.addModel(model, 1);
    plan.parallelism = model.parallelism();
    model
        .root()
        .findPresent("num_experts")
        .filter(experts -> !experts.isList())
        .ifPresent(
            experts -> {
              throw experts.refused(
                  "expected a list with one number for each layer, found %s. That is the old format, whose expert files have no layer in their names: load it once with a DeepSpeed that writes the new one, and save it again."
                      .formatted(experts.describe()));
            });
    List<Shard> shards = readShards(mpRank, modelStat, ranks);
    OptimizerStates states = shards.get(0).states();
    SavedKinds.requireSupported(plan, model, states.stateDict());
    DsConfig.ifStored(model.root(), states.root())
        .ifPresent(config -> config.requireSupported(states.stage()));
    ParamGroups recorded =
        model.hasShapes()
            ? ParamGroups.of(model, shards, ranks)
            : ExpertGroups.of(
                plan,
                ExpertFiles.of(plan, experts, sources, mpRank, model),
                new ExpertGroups.ModelFile(model, modelFile, modelSource),
                shards);
    ParamGroups groups = FlatPaddings.of(model, recorded, shards, plan.targetWorldSize);
    if (other.isPresent()) {
      other
          .get()
          .addFlat(mpRank, this, new SavedFlat(model, modelFile, modelSource, shards, groups));
      return;
    }
    if (plan.isConversionOf(states.stage())) {
      FlatConversion.requireConvertible(plan, model, states);
      MuonMomentum.requireNoneToConvert(states);
      stage = plan.targetStage;
      if (stage == 3) {
        toStage3.addFlat(
            mpRank, this, new SavedFlat(model, modelFile, modelSource, shards, groups));
        return;
      }
    }
    boolean roundRobin =
        stage == ZeroStage.AS_SAVED
            ? groups.roundRobin()
            : DsConfig.of(model.root()).roundRobin()
                && !DsConfig.of(model.root()).makesBf16Optimizer(stage);
    ParamGroups targetGroups =
        FlatPaddings.atStage(stage, model, groups, states).withRoundRobin(roundRobin);
    Models models = addModels(mpRank, groups, targetGroups, ranks);
    for (int rank = 0; rank < ranks; rank++) {
      FlatShards.addPartitions(plan, shards.get(rank), rank, models.refs(plan, rank, ranks));
    }
    requireReplicasAgree(shards, models.refs(plan, 0, ranks));
    addSteps(shards);
    MuonMomentum.add(
        plan, model.root(), shards, r -> models.refs(plan, r, ranks), Optional.empty());

    planModelFile(modelStat, modelFile, modelSource, models.refs(plan, 0, ranks));
    ExpertsPresent.require(model, mpRank, experts);
    addWeightsBeside(model, mpRank, models);
    for (int rank = 0; rank < plan.targetWorldSize; rank++) {
      List<FileGroup> refs = models.refs(plan, rank, plan.targetWorldSize);
      String name = optimizerName(shards, rank, mpRank, refs);
      planOptimizerFile(shards, rank, plan.files.tag() + "/" + name, refs);
    }
    addPadding(models);
    if (roundRobin && !AlignedShards.haveRightMappings(targetGroups, plan.targetWorldSize)) {
      plan.notes.add(ROUND_ROBIN_NOTE);
    }
  }

  /** Registers the partitioned models of an mp rank; their partitions are yet to be added. */
  public Models addModels(int mpRank, ParamGroups groups, int ranks) {
    return addModels(mpRank, groups, groups, ranks);
  }

  private Models addModels(int mpRank, ParamGroups groups, ParamGroups targetGroups, int ranks) {
    Map<Integer, List<Integer>> indices = new HashMap<>();
    for (int size : groups.expertParallelSizes()) {
      boolean dense = size == ParamGroups.DENSE;
      if (!dense && (ranks % size != 0 || plan.targetWorldSize % size != 0)) {
        throw new RefusedException(
            plan.where(),
            "the expert-parallel size is %d, which has to divide the data-parallel size: %d of the checkpoint, %d of the target. Choose a --targetWorldSize that is a multiple of %d."
                .formatted(size, ranks, plan.targetWorldSize, size));
      }
      List<Integer> ofSize = new ArrayList<>();
      for (int expertRank = 0; expertRank < Math.max(1, size); expertRank++) {
        ofSize.add(
            plan.addModel(
                new PartitionedModel(
                    mpRank,
                    dense ? ParamId.NO_EXPERT : expertRank,
                    groups.layout(ranks, size, expertRank),
                    targetGroups.layout(plan.targetWorldSize, size, expertRank),
                    new ArrayList<>(),
                    new HashMap<>(),
                    new HashMap<>(),
                    new ArrayList<>())));
      }
      indices.put(size, ofSize);
    }
    return new Models(groups, indices);
  }

  private List<Shard> readShards(int mpRank, FileStat modelStat, int ranks) throws IOException {
    SortedMap<Integer, FileStat> stats =
        RanksPresent.of(
            plan,
            modelStat.name(),
            mpRank,
            "optimizer files",
            plan.files.optimizers().get(mpRank),
            ranks);
    List<Shard> shards = new ArrayList<>();
    plan.readEach(
        stats.values(),
        (stat, file) -> {
          OptimizerStates states =
              new OptimizerStates(PickledValue.root(file.path(), file.parse().root()));
          if (states.stage() != 1 && states.stage() != 2) {
            throw new RefusedException(
                stat.path(),
                "zero_stage is %d beside model files of ZeRO-1 or 2.".formatted(states.stage()));
          }
          shards.add(new Shard(plan.addSource(stat, file), file, states));
        });
    return shards;
  }

  /** Takes note of the steps that the shards, which agree, count. */
  public void addSteps(List<Shard> shards) throws IOException {
    Shard first = shards.get(0);
    plan.steps.addOptimizer(
        first.source(),
        first.file(),
        first.states().baseState(),
        shards.stream().map(shard -> plan.sources.get(shard.source()).stat().name()).toList(),
        false);
  }

  /** What is not partitioned must be the same on all ranks. */
  public void requireReplicasAgree(List<Shard> shards, List<FileGroup> refs) throws IOException {
    List<FlatOptimizerRewrite.Group> groups =
        refs.stream()
            .map(ref -> FlatOptimizerRewrite.Group.of(ref.model(), ref.source(), ref.group()))
            .toList();
    ReplicaComparison comparison =
        new ReplicaComparison(
            plan.store, plan.sources, file -> FlatOptimizerRewrite.comparable(file, groups));
    for (int rank = 0; rank < shards.size(); rank++) {
      Shard shard = shards.get(rank);
      comparison.add(rank, shard.source(), shard.file()).ifPresent(plan.notes::add);
    }
  }

  private static List<GroupRef> indices(List<FileGroup> refs) {
    return refs.stream().map(FileGroup::index).toList();
  }

  private void planModelFile(FileStat stat, TorchFile file, int source, List<FileGroup> refs) {
    TorchRecipe recipe = new FlatModelRecipe(source, indices(refs), stage);
    TorchTarget.Planned planned =
        TorchTarget.plan(
            file, stat.name(), recipe, plan.models, plan.sourceWorldSize(), plan.targetWorldSize);
    PlanBuilder.Written written =
        plan.addTarget(plan.files.tag() + "/" + stat.name(), recipe, planned, source, file);
    ModelStates states = new ModelStates(PickledValue.root(file.path(), file.parse().root()));
    Map<String, TensorNode> module = states.module();
    Map<Integer, Address> flat = new HashMap<>();
    for (int e = 0; e < planned.storages().size(); e++) {
      Rewritten.Storage storage = planned.storages().get(e);
      Address begin = written.storages().get(e);
      if (storage.content() instanceof Rewritten.Content.FlatWeights weights) {
        flat.put(weights.group(), begin);
        FlatLayout to = refs.get(weights.group()).target();
        int group = refs.get(weights.group()).group();
        DType dtype = module.get(to.parameters().get(to.flatOrder(group)[0]).name()).dtype();
        addFlatPadding(to, group, dtype.bytes(), begin);
      }
    }
    for (int g = 0; g < refs.size(); g++) {
      PartitionedModel model = refs.get(g).model();
      if (model.expertRank() == ParamId.NO_EXPERT) {
        addModuleWeights(source, file, module, refs.get(g), flat.get(g));
      }
    }
  }

  /** The zeros in a flat buffer of the model file. */
  private void addFlatPadding(FlatLayout layout, int group, int width, Address begin) {
    for (FlatLayout.Run run : layout.flatPadding(group)) {
      plan.carried.add(
          SliceCopy.padding(begin.plus(run.start() * width), run.elements() * width, 0, width));
    }
  }

  /** Adds what the model file holds of the parameters of a group, in the group's order. */
  public void addModuleWeights(
      int source, TorchFile file, Map<String, TensorNode> module, FileGroup ref, Address flat) {
    PartitionedModel model = ref.model();
    for (int p = 0; p < model.parameters().size(); p++) {
      Parameter parameter = model.parameters().get(p);
      if (parameter.group() != ref.group()) {
        continue;
      }
      TensorNode weight = module.get(parameter.name());
      if (weight == null) {
        model.weights().add(null);
        continue;
      }
      String where = file.path() + ", module." + parameter.name();
      Address address = weightAddress(source, file, where, parameter, weight);
      model
          .weights()
          .add(
              new ModuleWeight(
                  weight.dtype(),
                  address,
                  flat == null
                      ? null
                      : flat.plus(ref.target().flatStart(p) * weight.dtype().bytes())));
    }
  }

  private Address weightAddress(
      int source, TorchFile file, String where, Parameter parameter, TensorNode weight) {
    if (!parameter.hasShape(weight.shape()) || !weight.isContiguous()) {
      throw new RefusedException(
          where,
          "the weight has shape %s, param_shapes says %s. The files do not belong together."
              .formatted(Arrays.toString(weight.shape()), parameter.shape()));
    }
    return plan.address(source, file, where, weight);
  }

  /** A tensor of a file that is copied as it is. */
  private record Stored(TorchFile file, PickledValue value) {}

  /** Adds the weights that stand in files of their own. */
  public void addWeightsBeside(ModelStates modelStates, int mpRank, Models models) {
    Map<String, Stored> ofLayers = layerWeights(mpRank);
    Map<String, Stored> ofExperts = expertWeights(mpRank);
    MissingWeights missing = new MissingWeights(modelStates, !layers.isEmpty());
    for (List<Integer> indices : models.indices().values()) {
      for (int index : indices) {
        PartitionedModel model = plan.models.get(index);
        boolean dense = model.expertRank() == ParamId.NO_EXPERT;
        ExpertNames names = dense ? null : ExpertNames.of(model.parameters());
        for (int p = 0; p < model.parameters().size(); p++) {
          Parameter parameter = model.parameters().get(p);
          if (dense) {
            if (model.weights().get(p) == null) {
              Stored stored =
                  ofLayers.containsKey(parameter.name())
                      ? ofLayers.get(parameter.name())
                      : tiedWeight(parameter, ofLayers, model);
              model.weights().set(p, weight(stored, parameter));
            }
          } else {
            String global = names.global(parameter.name(), model.expertRank());
            model.weights().add(weight(ofExperts.get(global), parameter));
            if (model.weights().get(p) == null) {
              missing.expert(global, parameter);
              continue;
            }
          }
          if (model.weights().get(p) == null) {
            missing.dense(parameter);
          } else {
            missing.found(parameter);
          }
        }
      }
    }
    missing.note().ifPresent(plan.notes::add);
  }

  /**
   * A layer that stands in more than one place is {@code tied_modules.KEY}; its weights are in the
   * file of a layer that has no other trained parameters (DeepSpeed 0.19.6, runtime/pipe/module.py,
   * {@code _build}). Null if that is not one file.
   */
  private static Stored tiedWeight(
      Parameter parameter, Map<String, Stored> ofLayers, PartitionedModel model) {
    Optional<String> inLayer = MissingWeights.nameInTiedLayer(parameter.name());
    if (inLayer.isEmpty()) {
      return null;
    }
    List<Stored> found = new ArrayList<>();
    ofLayers.forEach(
        (name, stored) -> {
          String layer = name.substring(0, name.indexOf('.') + 1);
          if (name.equals(layer + inLayer.get())
              && parameter.hasShape(stored.value().tensor().shape())
              && model.parameters().stream().noneMatch(p -> p.name().startsWith(layer))) {
            found.add(stored);
          }
        });
    return found.size() == 1 ? found.get(0) : null;
  }

  private ModuleWeight weight(Stored stored, Parameter parameter) {
    if (stored == null) {
      return null;
    }
    TensorNode weight = stored.value().tensor();
    return new ModuleWeight(
        weight.dtype(),
        weightAddress(
            sources.get(stored.file()), stored.file(), stored.value().where(), parameter, weight),
        null);
  }

  /**
   * In pipeline runs a parameter {@code 3.fc.weight} is {@code fc.weight} in the file of layer 3
   * (DeepSpeed 0.19.6, runtime/pipe/module.py, {@code save_state_dict}).
   */
  private Map<String, Stored> layerWeights(int mpRank) {
    int tensorRanks =
        layers.keySet().stream()
            .mapToInt(name -> CheckpointFiles.LayerName.parse(name).tensorRank() + 1)
            .max()
            .orElse(1);
    Map<String, Stored> weights = new HashMap<>();
    layers.forEach(
        (name, file) -> {
          CheckpointFiles.LayerName layer = CheckpointFiles.LayerName.parse(name);
          if (layer.tensorRank() == mpRank % tensorRanks) {
            tensors(file)
                .forEach(
                    entry -> weights.put(layer.layer() + "." + entry.key(), stored(file, entry)));
          }
        });
    return weights;
  }

  /** The weights of all experts by their global names. */
  private Map<String, Stored> expertWeights(int mpRank) {
    Map<String, Stored> weights = new HashMap<>();
    experts.forEach(
        (name, file) -> {
          CheckpointFiles.ExpertName expert = CheckpointFiles.ExpertName.parse(name);
          if (expert != null && expert.mpRank() == mpRank) {
            tensors(file).forEach(entry -> weights.put(entry.key(), stored(file, entry)));
          }
        });
    return weights;
  }

  private static Stored stored(TorchFile file, PickledValue.Entry entry) {
    return new Stored(file, entry.value());
  }

  private static Stream<PickledValue.Entry> tensors(TorchFile file) {
    return PickledValue.root(file.path(), file.parse().root()).children().stream()
        .filter(entry -> entry.value().asTensor().isPresent());
  }

  private String optimizerName(List<Shard> shards, int rank, int mpRank, List<FileGroup> refs) {
    return CheckpointFiles.nameOf(
        plan.sources.get(shards.get(templateRank(shards, rank, refs)).source()).stat().name(),
        rank,
        mpRank);
  }

  /**
   * The source rank that says everything that is not partitioned: the same rank, unless it has no
   * tensor of a state that the target rank holds.
   */
  private static int templateRank(List<Shard> shards, int rank, List<FileGroup> refs) {
    if (rank >= shards.size()) {
      return 0;
    }
    for (int g = 0; g < refs.size(); g++) {
      FileGroup ref = refs.get(g);
      for (String state : ref.model().wholeStates(ref.group())) {
        boolean needed = ref.model().targetOf(ref.group(), state).elementsIn(rank, ref.group()) > 0;
        if (needed && shards.get(rank).states().find(g, state).isEmpty()) {
          return 0;
        }
      }
    }
    return rank;
  }

  /**
   * Plans the file of a target rank.
   *
   * @param path where it goes, relative to the output
   */
  public void planOptimizerFile(List<Shard> shards, int rank, String path, List<FileGroup> refs) {
    Shard template = shards.get(templateRank(shards, rank, refs));
    String name = path.substring(path.lastIndexOf('/') + 1);
    TorchRecipe recipe =
        plan.optimizerRecipe(
            new FlatOptimizerRecipe(template.source(), rank, indices(refs), stage));
    TorchTarget.Planned planned =
        TorchTarget.plan(
            template.file(),
            name,
            recipe,
            plan.models,
            plan.sourceWorldSize(),
            plan.targetWorldSize);
    PlanBuilder.Written written =
        plan.addTarget(path, recipe, planned, template.source(), template.file());
    for (int e = 0; e < planned.storages().size(); e++) {
      Rewritten.Storage storage = planned.storages().get(e);
      Address begin = written.storages().get(e);
      if (storage.content() instanceof Rewritten.Content.PartitionOf partition) {
        FileGroup ref = refs.get(partition.group());
        ref.model()
            .targetPartitions()
            .put(new Partition(rank, ref.group(), partition.state()), begin);
      }
    }
  }

  /**
   * Reads what the source's padding holds: an optimizer may begin its state at another value than
   * zero.
   */
  public void addPadding(Models models) throws IOException {
    for (List<Integer> indices : models.indices().values()) {
      for (int index : indices) {
        addPadding(index, plan.models.get(index));
      }
    }
  }

  private void addPadding(int index, PartitionedModel model) throws IOException {
    PaddingReader reader = new PaddingReader(plan.store, plan.sources);
    for (int g = 0; g < model.states().size(); g++) {
      for (Map.Entry<String, DType> state : model.states().get(g).entrySet()) {
        if (!state.getKey().equals(States.MASTER) && !model.isWhole(g, state.getKey())) {
          long bits = reader.uniformBits(model, g, state.getKey(), state.getValue());
          if (bits != 0) {
            plan.padding.add(new ReshardPlan.Padding(index, g, state.getKey(), bits));
          }
        }
      }
    }
  }
}
