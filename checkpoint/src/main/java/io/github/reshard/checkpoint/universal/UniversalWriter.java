package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.PlanBuilder;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.plan.NewTorchFile;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.StorageSize;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import io.github.reshard.checkpoint.zero12.FileGroup;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import io.github.reshard.checkpoint.zero12.FlatModelRewrite;
import io.github.reshard.checkpoint.zero12.FlatPlanner;
import io.github.reshard.checkpoint.zero12.FlatShards;
import io.github.reshard.checkpoint.zero12.GroupRef;
import io.github.reshard.checkpoint.zero12.MuonMomentum;
import io.github.reshard.checkpoint.zero12.ParamGroups;
import io.github.reshard.checkpoint.zero12.SavedFlat;
import io.github.reshard.checkpoint.zero3.OtherWriter;
import io.github.reshard.checkpoint.zero3.ShardedLayout;
import io.github.reshard.checkpoint.zero3.ShardedModelRecipe;
import io.github.reshard.checkpoint.zero3.ShardedModelRewrite;
import io.github.reshard.checkpoint.zero3.StagePlanner;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;

/**
 * Plans a Universal Checkpoint, which a run at any stage and any number of data-parallel ranks
 * loads with {@code load_universal}. It is what DeepSpeed's own converter would make of the
 * checkpoint resharded to one rank: every state of a parameter whole in a file of its own, the
 * model files as one rank saves them, and what all share in {@code zero/optimizer_state.pt}.
 *
 * <p>Tensors come from where the layout proves them to be, never from {@code param_slice_mappings}.
 */
public final class UniversalWriter implements OtherWriter {
  private final PlanBuilder plan;
  private final UniversalLoad load;
  private final String tag;
  private final List<Part> parts = new ArrayList<>();

  public UniversalWriter(PlanBuilder plan, UniversalLoad load) {
    this.plan = plan;
    this.load = load;
    this.tag = UniversalFiles.tag(plan.files.tag());
    plan.targetTag = tag;
  }

  /**
   * One model-parallel rank.
   *
   * @param model its parameters; the target's layout has one bucket for each
   */
  private record Part(int mpRank, PartitionedModel model, UniversalState state) {}

  private void add(int mpRank, ModelStates file, PartitionedModel model, UniversalState state) {
    load.check(file, model, state);
    parts.add(new Part(mpRank, model, state));
  }

  /** How the whole parameters lie in their files. */
  private static ShardedLayout whole(List<Parameter> parameters) {
    return new ShardedLayout(1, parameters, 0);
  }

  @Override
  public void addFlat(int mpRank, FlatPlanner reader, SavedFlat from) throws IOException {
    ParamGroups groups = from.groups();
    if (groups.expertParallelSizes().stream().anyMatch(size -> size != ParamGroups.DENSE)) {
      throw new RefusedException(
          plan.where(),
          "it has a mixture of experts, whose parameters have the same names on different ranks: load_universal of DeepSpeed up to 0.19.8 cannot load them, and its converter fails. Leave --outputFormat out.");
    }
    MuonMomentum.requireNone(
        from.shards().get(0).states(),
        "which load_universal was not seen to load. Leave --outputFormat out.");
    int ranks = plan.sourceWorldSize();
    FlatLayout source = groups.layout(ranks, ParamGroups.DENSE, 0);
    FlatLayout alone = groups.withRoundRobin(false).layout(1, ParamGroups.DENSE, 0);
    PartitionedModel model =
        new PartitionedModel(
            mpRank,
            ParamId.NO_EXPERT,
            source,
            whole(source.parameters()),
            new ArrayList<>(),
            new HashMap<>(),
            new HashMap<>(),
            new ArrayList<>());
    int index = plan.addModel(model);
    List<FileGroup> refs = new ArrayList<>();
    for (int g = 0; g < groups.groups().size(); g++) {
      refs.add(new FileGroup(model, g, new GroupRef(index, g)));
    }
    for (int rank = 0; rank < ranks; rank++) {
      FlatShards.addPartitions(plan, from.shards().get(rank), rank, refs);
    }
    reader.requireReplicasAgree(from.shards(), refs);
    reader.addSteps(from.shards());
    Map<Integer, Address> flat = addFlatModelFiles(mpRank, from, source, alone);
    Map<String, TensorNode> module = from.model().module();
    for (FileGroup ref : refs) {
      reader.addModuleWeights(from.modelSource(), from.modelFile(), module, ref, null);
      moveModuleWeights(model, ref.group(), alone, flat.get(ref.group()));
    }
    reader.addWeightsBeside(
        from.model(),
        mpRank,
        new FlatPlanner.Models(groups, Map.of(ParamGroups.DENSE, List.of(index))));
    add(mpRank, from.model(), model, UniversalState.of(from.shards().get(0), model.states()));
  }

  /** Adds both model files; where the flat weights of each group begin, if they lie flat. */
  private Map<Integer, Address> addFlatModelFiles(
      int mpRank, SavedFlat from, FlatLayout source, FlatLayout alone) {
    List<FlatModelRewrite.Group> both = new ArrayList<>();
    for (int g = 0; g < source.buckets(); g++) {
      both.add(new FlatModelRewrite.Group(source, alone, g));
    }
    TorchFile file = from.modelFile();
    Rewritten full = FlatModelRewrite.rewrite(file, both, 1, ZeroStage.AS_SAVED);
    PlanBuilder.Written written =
        add(tag + "/" + UniversalModelFile.flatName(mpRank), full, from.modelSource(), file);
    Rewritten emptied =
        UniversalModelFile.emptied(
            file.path(), FlatModelRewrite.rewrite(file, both, 1, ZeroStage.AS_SAVED));
    add(tag + "/" + UniversalModelFile.shardedName(mpRank), emptied, from.modelSource(), file);
    Map<Integer, Address> flat = new HashMap<>();
    for (int s = 0; s < full.storages().size(); s++) {
      if (full.storages().get(s).content() instanceof Rewritten.Content.FlatWeights weights) {
        Address begin = written.storages().get(s);
        int group = weights.group();
        flat.put(group, begin);
        int width = Math.toIntExact(full.storages().get(s).bytes() / alone.flatElements(group));
        for (FlatLayout.Run run : alone.flatPadding(group)) {
          plan.carried.add(
              SliceCopy.padding(begin.plus(run.start() * width), run.elements() * width, 0, width));
        }
      }
    }
    return flat;
  }

  private static void moveModuleWeights(
      PartitionedModel model, int group, FlatLayout alone, Address flat) {
    for (int p = 0; flat != null && p < model.weights().size(); p++) {
      ModuleWeight weight = model.weights().get(p);
      if (weight != null && model.parameters().get(p).group() == group) {
        model
            .weights()
            .set(
                p,
                new ModuleWeight(
                    weight.dtype(),
                    weight.source(),
                    flat.plus(alone.flatStart(p) * weight.dtype().bytes())));
      }
    }
  }

  @Override
  public void addSharded(StagePlanner.Sharded from, long subGroupSize) {
    PartitionedModel model = plan.models.get(from.trained());
    ShardedLayout source = (ShardedLayout) model.source();
    ShardedLayout alone = new ShardedLayout(1, source.parameters(), subGroupSize);
    ShardedLayout frozen =
        from.frozen() == ShardedModelRecipe.NONE_FROZEN
            ? new ShardedLayout(1, List.of(), 0)
            : (ShardedLayout) plan.models.get(from.frozen()).target();
    TorchFile file = from.modelFile().file();
    int template = from.modelFile().source();
    Rewritten full = ShardedModelRewrite.rewrite(file, source, alone, frozen, true);
    PlanBuilder.Written written =
        add(tag + "/" + UniversalModelFile.shardedName(from.mpRank()), full, template, file);
    for (int s = 0; s < full.storages().size(); s++) {
      if (full.storages().get(s).content() instanceof Rewritten.Content.PartitionOf piece) {
        plan.models
            .get(from.frozen())
            .targetPartitions()
            .put(new Partition(0, piece.group(), piece.state()), written.storages().get(s));
      }
    }
    Rewritten emptied =
        UniversalModelFile.emptied(file.path(), withoutFragments(file, source, alone));
    add(tag + "/" + UniversalModelFile.flatName(from.mpRank()), emptied, template, file);
    add(
        from.mpRank(),
        from.model(),
        model,
        UniversalState.of(from.optimizers().get(0), source, alone, model.states()));
  }

  /** The model file with the frozen pieces as rank 0 has them, which are then left out. */
  private static Rewritten withoutFragments(
      TorchFile file, ShardedLayout source, ShardedLayout alone) {
    return ShardedModelRewrite.rewrite(
        file, source, alone, new ShardedLayout(1, List.of(), 0), true);
  }

  /** Adds the files of all parameters, once all model-parallel ranks are there. */
  public void finish() {
    Map<String, List<Holder>> byName = new LinkedHashMap<>();
    for (Part part : parts) {
      for (int p = 0; p < part.model().parameters().size(); p++) {
        byName
            .computeIfAbsent(part.model().parameters().get(p).name(), name -> new ArrayList<>())
            .add(new Holder(part, p));
      }
    }
    Map<PartGroup, Steps> steps = new HashMap<>();
    byName.forEach((name, holders) -> addParameter(name, holders, steps));
    UniversalState first = parts.get(0).state();
    add(UniversalFiles.optimizer(tag), first.optimizerFile(), first.source(), first.file());
  }

  /** A model-parallel rank that has the parameter, or a part of it. */
  private record Holder(Part part, int parameter) {
    Parameter of() {
      return part.model().parameters().get(parameter);
    }

    int bucket() {
      return part.model().target().extentsOf(parameter).stream()
          .map(Extent::bucket)
          .findFirst()
          .orElse(0);
    }
  }

  private record PartGroup(int mpRank, int group) {}

  /** What {@code step.pt} says; null where there is none. */
  private record Steps(Rewritten content) {}

  private void addParameter(String name, List<Holder> holders, Map<PartGroup, Steps> steps) {
    if (holders.size() > 1) {
      throw new RefusedException(
          plan.where(),
          "%s is on the mp ranks %s: parameters that several model-parallel ranks have are not joined yet. Leave --outputFormat out."
              .formatted(name, holders.stream().map(h -> h.part().mpRank()).toList()));
    }
    Holder holder = holders.get(0);
    PartitionedModel model = holder.part().model();
    model
        .statesOf(holder.parameter())
        .forEach((state, dtype) -> addState(holder, state, dtype, OptionalInt.of(0)));
    int group = holder.of().group();
    UniversalState shared = holder.part().state();
    Rewritten step =
        steps
            .computeIfAbsent(
                new PartGroup(holder.part().mpRank(), group),
                g -> new Steps(shared.stepFile(group).orElse(null)))
            .content();
    if (step != null) {
      add(
          UniversalFiles.ofState(tag, name, UniversalFiles.STEP),
          step,
          shared.source(),
          shared.file());
    }
  }

  private void addState(Holder holder, String state, DType dtype, OptionalInt catDim) {
    Rewritten content = UniversalTensor.of(state, dtype, holder.of().shape(), catDim);
    PlanBuilder.Written written =
        add(UniversalFiles.ofState(tag, holder.of().name(), state), content, 0, null);
    holder
        .part()
        .model()
        .targetPartitions()
        .put(new Partition(0, holder.bucket(), state), written.storages().get(0));
  }

  /**
   * @param source index of the file whose storages are carried
   * @param template that file, or null if none are
   */
  private PlanBuilder.Written add(String path, Rewritten content, int source, TorchFile template) {
    int protocol = template == null ? PROTOCOL : template.parse().protocol();
    byte[] pickle = PickleWriter.write(content.root(), protocol);
    List<StorageSize> sizes =
        content.storages().stream().map(s -> new StorageSize(s.key(), s.bytes())).toList();
    TorchFileLayout layout =
        TorchFileLayout.planNew(path.substring(path.lastIndexOf('/') + 1), pickle, sizes);
    return plan.addTarget(
        path,
        new NewTorchFile(pickle, sizes),
        new TorchTarget.Planned(layout, content.storages()),
        source,
        template);
  }

  /** {@code torch.serialization.DEFAULT_PROTOCOL}. */
  private static final int PROTOCOL = 2;
}
