package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.plan.NewTorchFile;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.WholeTensors;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.StorageSize;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import io.github.reshard.checkpoint.zero12.FlatModelRewrite;
import io.github.reshard.checkpoint.zero12.MuonMomentum;
import io.github.reshard.checkpoint.zero12.ParamGroups;
import io.github.reshard.checkpoint.zero12.SavedFlat;
import io.github.reshard.checkpoint.zero3.SavedSharded;
import io.github.reshard.checkpoint.zero3.ShardedLayout;
import io.github.reshard.checkpoint.zero3.ShardedModelRewrite;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;

/** The files of a Universal Checkpoint while they are planned. */
final class UniversalDraft {
  /** {@code torch.serialization.DEFAULT_PROTOCOL}. */
  private static final int PROTOCOL = 2;

  private final PlanDraft draft;
  private final UniversalLoad load;
  private final String tag;
  private final List<Part> parts = new ArrayList<>();

  UniversalDraft(PlanDraft draft, UniversalLoad load) {
    this.draft = draft;
    this.load = load;
    this.tag = UniversalFiles.tag(draft.state().tag());
  }

  /**
   * One model-parallel rank.
   *
   * @param index of its parameters in the plan; the target's layout has one bucket for each
   */
  private record Part(int mpRank, int index, PartitionedModel model, UniversalState state) {}

  private void add(ModelPart part, int index, UniversalState state) {
    PartitionedModel model = draft.models().get(index);
    load.check(new ModelStates(part.model().orElseThrow().root()), model, state);
    parts.add(new Part(part.mpRank(), index, model, state));
  }

  /** Adds a model-parallel rank of ZeRO-1 or 2. */
  void addFlat(ModelPart part, SavedFlat saved) {
    ParamGroups groups = saved.sets().groups();
    if (groups.expertParallelSizes().stream().anyMatch(size -> size != ParamGroups.DENSE)) {
      throw new RefusedException(
          draft.state().checkpoint(),
          "it has a mixture of experts, whose parameters have the same names on different ranks:"
              + " load_universal of DeepSpeed up to 0.19.8 cannot load them, and its converter"
              + " fails. Leave --outputFormat out.");
    }
    MuonMomentum.requireNone(
        saved.shards().get(0).states(),
        "which load_universal was not seen to load. Leave --outputFormat out.");
    ParameterSet set = draft.state().trained(part);
    FlatLayout alone = groups.withRoundRobin(false).layout(1, ParamGroups.DENSE, 0);
    int index = draft.addModel(set, new WholeTensors(set.parameters()));
    ReadFile modelFile = part.model().orElseThrow();
    Map<Integer, Address> flat =
        addFlatModelFiles(part.mpRank(), modelFile, FlatLayout.of(set.layout()), alone);
    flat.forEach(
        (group, begin) -> moveModuleWeights(index, modelFile.source(), group, alone, begin));
    add(part, index, UniversalState.of(saved.shards().get(0), set.states()));
  }

  /** Adds both model files; where the flat weights of each group begin, if they lie flat. */
  private Map<Integer, Address> addFlatModelFiles(
      int mpRank, ReadFile modelFile, FlatLayout source, FlatLayout alone) {
    List<FlatModelRewrite.Group> both = new ArrayList<>();
    for (int g = 0; g < source.buckets(); g++) {
      both.add(new FlatModelRewrite.Group(source, alone, g));
    }
    TorchFile file = modelFile.file();
    Rewritten full = FlatModelRewrite.rewrite(file, both, 1, ZeroStage.AS_SAVED);
    PlanDraft.Written written =
        add(draft.inTag(UniversalModelFile.flatName(mpRank)), full, modelFile);
    Rewritten emptied =
        UniversalModelFile.emptied(
            file.path(), FlatModelRewrite.rewrite(file, both, 1, ZeroStage.AS_SAVED));
    add(draft.inTag(UniversalModelFile.shardedName(mpRank)), emptied, modelFile);
    Map<Integer, Address> flat = new HashMap<>();
    for (int s = 0; s < full.storages().size(); s++) {
      if (full.storages().get(s).content() instanceof Rewritten.Content.FlatWeights weights) {
        Address begin = written.storages().get(s);
        int group = weights.group();
        flat.put(group, begin);
        int width = Math.toIntExact(full.storages().get(s).bytes() / alone.flatElements(group));
        for (FlatLayout.Run run : alone.flatPadding(group)) {
          draft.carry(
              SliceCopy.padding(begin.plus(run.start() * width), run.elements() * width, 0, width));
        }
      }
    }
    return flat;
  }

  private void moveModuleWeights(
      int index, int modelSource, int group, FlatLayout alone, Address flat) {
    PartitionedModel model = draft.models().get(index);
    for (int p = 0; p < model.weights().size(); p++) {
      ModuleWeight weight = model.weights().get(p);
      if (weight != null
          && weight.source().file() == modelSource
          && model.parameters().get(p).group() == group) {
        draft.placeWeight(
            index,
            p,
            new ModuleWeight(
                weight.dtype(),
                weight.source(),
                flat.plus(alone.flatStart(p) * weight.dtype().bytes())));
      }
    }
  }

  /** Adds a model-parallel rank of ZeRO-3. */
  void addSharded(ModelPart part, SavedSharded saved) throws IOException {
    part.reading()
        .requireShared(
            draft.state(),
            part,
            new Target(1, 0),
            problem -> new RefusedException(draft.state().checkpoint(), problem));
    ParameterSet set = draft.state().trained(part);
    int index = draft.addModel(set, new WholeTensors(set.parameters()));
    ShardedLayout source = saved.layout();
    ShardedLayout alone = new ShardedLayout(1, set.parameters(), saved.subGroupSize());
    ShardedLayout none = new ShardedLayout(1, List.of(), 0);
    ShardedLayout frozen = none;
    int pieces = -1;
    if (part.frozen().isPresent()) {
      ParameterSet ofPieces = draft.state().parameters().get(part.frozen().getAsInt());
      frozen = new ShardedLayout(1, ofPieces.parameters(), 0);
      pieces = draft.addModel(ofPieces, frozen);
    }
    ReadFile modelFile = part.model().orElseThrow();
    TorchFile file = modelFile.file();
    Rewritten full = ShardedModelRewrite.rewrite(file, source, alone, frozen, true);
    PlanDraft.Written written =
        add(draft.inTag(UniversalModelFile.shardedName(part.mpRank())), full, modelFile);
    for (int s = 0; s < full.storages().size(); s++) {
      if (full.storages().get(s).content() instanceof Rewritten.Content.PartitionOf piece) {
        draft.place(
            pieces, new Partition(0, piece.group(), piece.state()), written.storages().get(s));
      }
    }
    // The frozen pieces as rank 0 has them, which are then left out.
    Rewritten emptied =
        UniversalModelFile.emptied(
            file.path(), ShardedModelRewrite.rewrite(file, source, alone, none, true));
    add(draft.inTag(UniversalModelFile.flatName(part.mpRank())), emptied, modelFile);
    add(part, index, UniversalState.of(part.optimizers().get(0), source, alone, set.states()));
  }

  /** Adds the files of all parameters, once all model-parallel ranks are there. */
  void finish() {
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
    add(
        UniversalFiles.optimizer(tag),
        first.optimizerFile(),
        new ReadFile(first.source(), first.file()));
  }

  /** A model-parallel rank that has the parameter, or a part of it. */
  private record Holder(Part part, int parameter) {
    Parameter of() {
      return part.model().parameters().get(parameter);
    }
  }

  private record PartGroup(int mpRank, int group) {}

  /** What {@code step.pt} says; null where there is none. */
  private record Steps(Rewritten content) {}

  private void addParameter(String name, List<Holder> holders, Map<PartGroup, Steps> steps) {
    if (holders.size() > 1) {
      throw new RefusedException(
          draft.state().checkpoint(),
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
          new ReadFile(shared.source(), shared.file()));
    }
  }

  private void addState(Holder holder, String state, DType dtype, OptionalInt catDim) {
    Rewritten content = UniversalTensor.of(state, dtype, holder.of().shape(), catDim);
    PlanDraft.Written written =
        add(UniversalFiles.ofState(tag, holder.of().name(), state), content, null);
    draft.place(
        holder.part().index(),
        new Partition(0, holder.parameter(), state),
        written.storages().get(0));
  }

  /**
   * @param template the file whose storages are carried, or null if none are
   */
  private PlanDraft.Written add(String path, Rewritten content, ReadFile template) {
    int protocol = template == null ? PROTOCOL : template.file().parse().protocol();
    byte[] pickle = PickleWriter.write(content.root(), protocol);
    List<StorageSize> sizes =
        content.storages().stream().map(s -> new StorageSize(s.key(), s.bytes())).toList();
    TorchFileLayout layout =
        TorchFileLayout.planNew(path.substring(path.lastIndexOf('/') + 1), pickle, sizes);
    return draft.addFile(
        path,
        new NewTorchFile(pickle, sizes),
        new TorchTarget.Planned(layout, content.storages()),
        template);
  }
}
