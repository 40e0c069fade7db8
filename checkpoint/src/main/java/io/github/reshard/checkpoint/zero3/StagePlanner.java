package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.copy.WeightCast;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.DsVersion;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ModuleParameters;
import io.github.reshard.checkpoint.deepspeed.PlanBuilder;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.zero12.FileGroup;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import io.github.reshard.checkpoint.zero12.FlatPaddings;
import io.github.reshard.checkpoint.zero12.FlatPlanner;
import io.github.reshard.checkpoint.zero12.FlatShards;
import io.github.reshard.checkpoint.zero12.FlatValues;
import io.github.reshard.checkpoint.zero12.GroupRef;
import io.github.reshard.checkpoint.zero12.NewFlatModelRecipe;
import io.github.reshard.checkpoint.zero12.NewFlatOptimizerRecipe;
import io.github.reshard.checkpoint.zero12.ParamGroups;
import io.github.reshard.checkpoint.zero12.ParameterAlignments;
import io.github.reshard.checkpoint.zero12.SavedFlat;
import io.github.reshard.checkpoint.zero12.Shard;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Plans the files of another ZeRO stage than the source's. */
public final class StagePlanner {
  private StagePlanner() {}

  /**
   * Checks that ZeRO-1 or 2 can be made of it.
   *
   * @throws RefusedException if the checkpoint has what is not supported
   */
  public static void requireConvertible(PlanBuilder plan, ModelStates model, ShardedStates states) {
    DsConfig.of(model.root());
    plan.notes.add("stage %d → stage %d".formatted(states.stage(), plan.targetStage));
    if (plan.files.optimizers().size() > 1) {
      throw plan.notConvertible("it has more than one model-parallel rank");
    }
    if (!plan.files.layers().isEmpty()) {
      throw plan.notConvertible("it has layer files of a pipeline");
    }
    List<List<Integer>> subGroups = states.subGroups();
    for (int g = 0; g < subGroups.size(); g++) {
      if (subGroups.get(g).isEmpty()) {
        throw plan.notConvertible("param group %d has no trainable parameter".formatted(g));
      }
    }
  }

  /** How the parameters of a ZeRO-3 checkpoint lie at the target's stage. */
  static FlatLayout flatLayout(
      PlanBuilder plan, ModelStates model, ShardedStates states, List<Parameter> parameters) {
    DsConfig config = DsConfig.of(model.root());
    List<FlatLayout.Group> groups = new ArrayList<>();
    for (int g = 0; g < states.subGroups().size(); g++) {
      int group = g;
      int size = (int) parameters.stream().filter(p -> p.group() == group).count();
      groups.add(FlatLayout.Group.dense(size, plan.targetWorldSize));
    }
    boolean roundRobin = config.roundRobin() && !config.makesBf16Optimizer(plan.targetStage);
    if (roundRobin) {
      plan.notes.add(FlatPlanner.ROUND_ROBIN_NOTE);
    }
    List<Integer> alignments = new ArrayList<>();
    Map<String, TensorNode> module = model.module();
    for (int g = 0; g < groups.size(); g++) {
      int group = g;
      alignments.add(
          parameters.stream()
              .filter(p -> p.group() == group && module.containsKey(p.name()))
              .map(p -> ParameterAlignments.of(module.get(p.name()).dtype()))
              .findFirst()
              .orElse(1));
    }
    return new FlatLayout(
        plan.targetWorldSize,
        parameters,
        groups,
        roundRobin,
        FlatPaddings.configured(
            DsVersion.in(states.root(), model.root()), config, plan.targetStage, alignments));
  }

  /** Plans the files of ZeRO-3. */
  public static void toSharded(PlanBuilder plan, FlatPlanner reader, SavedFlat from)
      throws IOException {
    int ranks = plan.sourceWorldSize();
    FlatLayout source = from.groups().layout(ranks, ParamGroups.DENSE, 0);
    ShardedLayout target =
        new ShardedLayout(
            plan.targetWorldSize,
            source.parameters(),
            DsConfig.of(from.model().root()).subGroupSize());
    PartitionedModel model =
        new PartitionedModel(
            0,
            ParamId.NO_EXPERT,
            source,
            target,
            new ArrayList<>(),
            new HashMap<>(),
            new HashMap<>(),
            new ArrayList<>());
    int trained = plan.addModel(model);
    List<FileGroup> refs = new ArrayList<>();
    for (int g = 0; g < from.groups().groups().size(); g++) {
      refs.add(new FileGroup(model, g, new GroupRef(trained, g)));
    }
    for (int rank = 0; rank < ranks; rank++) {
      FlatShards.addPartitions(plan, from.shards().get(rank), rank, refs);
    }
    reader.requireReplicasAgree(from.shards(), refs);
    reader.addSteps(from.shards());
    Map<String, TensorNode> module = from.model().module();
    for (FileGroup ref : refs) {
      reader.addModuleWeights(from.modelSource(), from.modelFile(), module, ref, null);
    }
    model.weights().replaceAll(weight -> weight == null ? null : weight.dropped());
    int frozen = addFrozen(plan, from);
    ModuleParameters named = ModuleParameters.of(from.model());
    List<String> dsIds =
        ParameterIds.labels(
            module.keySet().stream().filter(named::contains).toList(),
            named.others().keySet(),
            target);
    ShardedPlanner writer = new ShardedPlanner(plan);
    ShardedPlanner.RankFile modelTemplate =
        new ShardedPlanner.RankFile(from.modelSource(), from.modelFile());
    TorchTarget.Pickled ofOthers = null;
    for (int rank = 0; rank < plan.targetWorldSize; rank++) {
      TorchRecipe recipe = new NewShardedModelRecipe(from.modelSource(), rank, trained, frozen);
      TorchTarget.Pickled content = rank > 1 ? ofOthers : pickled(plan, from.modelFile(), recipe);
      ofOthers = content;
      writer.planFile(
          modelTemplate,
          rank,
          plan.files.tag() + "/zero_pp_rank_" + rank + "_mp_rank_00_model_states.pt",
          recipe,
          content,
          frozen);
      int templateRank = rank < ranks ? rank : 0;
      Shard shard = from.shards().get(templateRank);
      TorchRecipe ofOptimizer =
          new NewShardedOptimizerRecipe(shard.source(), trained, dsIds, new FlatValues());
      writer.planFile(
          new ShardedPlanner.RankFile(shard.source(), shard.file()),
          rank,
          optimizerPath(plan, shard.source(), rank, 0),
          ofOptimizer,
          pickled(plan, shard.file(), ofOptimizer),
          trained);
    }
  }

  private static TorchTarget.Pickled pickled(
      PlanBuilder plan, TorchFile template, TorchRecipe recipe) {
    return TorchTarget.pickled(template, recipe, plan.models, plan.targetWorldSize);
  }

  private static String optimizerPath(PlanBuilder plan, int source, int rank, int mpRank) {
    return plan.files.tag()
        + "/"
        + CheckpointFiles.nameOf(plan.sources.get(source).stat().name(), rank, mpRank);
  }

  /** The frozen parameters, which ZeRO-1 and 2 have whole in the model file. */
  private static int addFrozen(PlanBuilder plan, SavedFlat from) {
    List<Parameter> parameters = new ArrayList<>();
    List<Map<String, DType>> states = new ArrayList<>();
    Map<Partition, Address> partitions = new HashMap<>();
    Map<String, TensorNode> weights = ModuleParameters.of(from.model()).frozen();
    for (Map.Entry<String, TensorNode> weight : weights.entrySet()) {
      TensorNode tensor = weight.getValue();
      int p = parameters.size();
      String where = from.modelFile().path() + ", module." + weight.getKey();
      if (!tensor.isContiguous()) {
        throw new RefusedException(where, "the frozen weight is not contiguous.");
      }
      List<Long> shape = new ArrayList<>();
      for (long dimension : tensor.shape()) {
        shape.add(dimension);
      }
      parameters.add(new Parameter(weight.getKey(), shape, p));
      states.add(Map.of(States.FROZEN, tensor.dtype()));
      partitions.put(
          new Partition(0, p, States.FROZEN),
          plan.address(from.modelSource(), from.modelFile(), where, tensor));
    }
    if (parameters.isEmpty()) {
      return ShardedModelRecipe.NONE_FROZEN;
    }
    PartitionedModel model =
        ShardedPlanner.model(
            0,
            new ShardedLayout(1, parameters, 0),
            new ShardedLayout(plan.targetWorldSize, parameters, 0));
    model.states().addAll(states);
    model.sourcePartitions().putAll(partitions);
    return plan.addModel(model);
  }

  /**
   * A checkpoint of ZeRO-3 that was read.
   *
   * @param modelFile rank 0's, whose model file is that of ZeRO-1 and 2
   */
  public record Sharded(
      int mpRank,
      ModelStates model,
      ShardedPlanner.RankFile modelFile,
      List<ShardedPlanner.RankFile> optimizers,
      int trained,
      int frozen) {}

  /** Plans the files of ZeRO-1 or 2. */
  static void toFlat(PlanBuilder plan, ShardedPlanner writer, Sharded from) {
    planModelFile(plan, from);
    for (int rank = 0; rank < plan.targetWorldSize; rank++) {
      int templateRank = rank < from.optimizers().size() ? rank : 0;
      ShardedPlanner.RankFile template = from.optimizers().get(templateRank);
      TorchRecipe recipe =
          new NewFlatOptimizerRecipe(
              template.source(), rank, from.trained(), plan.targetStage, new ShardedValues());
      writer.planFile(
          template,
          rank,
          optimizerPath(plan, template.source(), rank, from.mpRank()),
          recipe,
          pickled(plan, template.file(), recipe),
          from.trained());
    }
  }

  private static void planModelFile(PlanBuilder plan, Sharded from) {
    ShardedPlanner.RankFile template = from.modelFile();
    String name = "mp_rank_%02d_model_states.pt".formatted(from.mpRank());
    TorchRecipe recipe =
        new NewFlatModelRecipe(template.source(), from.trained(), from.frozen(), plan.targetStage);
    TorchTarget.Planned planned =
        TorchTarget.plan(
            template.file(),
            name,
            recipe,
            plan.models,
            plan.sourceWorldSize(),
            plan.targetWorldSize);
    PlanBuilder.Written written =
        plan.addTarget(
            plan.files.tag() + "/" + name, recipe, planned, template.source(), template.file());
    PartitionedModel model = plan.models.get(from.trained());
    FlatLayout layout = (FlatLayout) model.target();
    Map<String, TensorNode> module = from.model().module();
    Map<Integer, Address> flat = new HashMap<>();
    for (int e = 0; e < planned.storages().size(); e++) {
      Rewritten.Storage storage = planned.storages().get(e);
      Address begin = written.storages().get(e);
      if (storage.content() instanceof Rewritten.Content.PartitionOf partition) {
        plan.models
            .get(from.frozen())
            .targetPartitions()
            .put(new Partition(0, partition.group(), partition.state()), begin);
      } else if (storage.content() instanceof Rewritten.Content.FlatWeights weights) {
        int group = weights.group();
        flat.put(group, begin);
        long width = storage.bytes() / Math.max(1, layout.flatElements(group));
        for (FlatLayout.Run run : layout.flatPadding(group)) {
          plan.carried.add(
              SliceCopy.padding(
                  begin.plus(run.start() * width), run.elements() * width, 0, (int) width));
        }
      }
    }
    for (int p = 0; p < layout.parameters().size(); p++) {
      Parameter parameter = layout.parameters().get(p);
      TensorNode placeholder = module.get(parameter.name());
      if (placeholder == null) {
        throw from.model()
            .root()
            .get("module")
            .refused("has no placeholder of %s, which says its type.".formatted(parameter.name()));
      }
      DType master = model.statesOf(p).get(States.MASTER);
      DType dtype = placeholder.dtype();
      if (!WeightCast.supports(master, dtype)) {
        throw from.model()
            .root()
            .get("module")
            .refused(
                "%s is of type %s, its master weights of %s; that cast is not supported."
                    .formatted(parameter.name(), dtype, master));
      }
      model
          .weights()
          .set(
              p,
              new ModuleWeight(
                  dtype,
                  null,
                  flat.get(parameter.group()).plus(layout.flatStart(p) * dtype.bytes())));
    }
  }
}
