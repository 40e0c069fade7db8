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
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** The files of a Universal Checkpoint while they are planned. */
final class UniversalDraft {
  /** {@code torch.serialization.DEFAULT_PROTOCOL}. */
  private static final int PROTOCOL = 2;

  private final PlanDraft draft;
  private final UniversalLoad load;
  private final String tag;

  /** What the parameters of each model-parallel rank share. */
  private final List<UniversalState> shared = new ArrayList<>();

  UniversalDraft(PlanDraft draft, UniversalLoad load) {
    this.draft = draft;
    this.load = load;
    this.tag = UniversalFiles.tag(draft.state().tag());
  }

  private void add(ModelPart part, UniversalState state) {
    load.check(
        new ModelStates(part.model().orElseThrow().root()), draft.state().trained(part), state);
    shared.add(state);
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
    ReadFile modelFile = part.model().orElseThrow();
    Map<Integer, Address> flat =
        addFlatModelFiles(part.mpRank(), modelFile, FlatLayout.of(set.layout()), alone);
    flat.forEach((group, begin) -> moveWeights(set, modelFile.source(), group, alone, begin));
    add(part, UniversalState.of(saved.shards().get(0), set.states()));
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

  /** The module's weights go on as this rank has them, whatever becomes of its parameters. */
  private void moveWeights(
      ParameterSet set, int modelSource, int group, FlatLayout alone, Address flat) {
    for (int p = 0; p < set.parameters().size(); p++) {
      ModuleWeight weight = set.weights().get(p);
      Parameter parameter = set.parameters().get(p);
      if (weight != null
          && weight.source().file() == modelSource
          && parameter.group() == group
          && parameter.elements() > 0) {
        int width = weight.dtype().bytes();
        draft.carry(
            SliceCopy.of(
                weight.source(),
                flat.plus(alone.flatStart(p) * width),
                parameter.elements() * width,
                true));
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
    add(part, UniversalState.of(part.optimizers().get(0), source, alone, set.states()));
  }

  /** Adds the files of all parameters, once all model-parallel ranks are there. */
  void finish() throws IOException {
    requireAlike();
    UniversalParameters parameters = UniversalParameters.of(draft.state());
    ParameterSet set = parameters.set();
    int index = draft.addModel(set, new WholeTensors(set.parameters()));
    draft.dropWeights(index);
    Map<PartGroup, Optional<Rewritten>> steps = new HashMap<>();
    for (int p = 0; p < set.parameters().size(); p++) {
      Parameter parameter = set.parameters().get(p);
      for (Map.Entry<String, DType> state : set.statesOf(p).entrySet()) {
        Rewritten content =
            UniversalTensor.of(
                state.getKey(),
                state.getValue(),
                parameter.shape(),
                parameters.keys(parameter.name()));
        PlanDraft.Written written =
            add(UniversalFiles.ofState(tag, parameter.name(), state.getKey()), content, null);
        draft.place(index, new Partition(0, p, state.getKey()), written.storages().get(0));
      }
      int part = parameters.firstParts().get(parameter.name());
      UniversalState of = shared.get(part);
      steps
          .computeIfAbsent(
              new PartGroup(part, parameter.group()), group -> of.stepFile(group.group()))
          .ifPresent(
              step ->
                  add(
                      UniversalFiles.ofState(tag, parameter.name(), UniversalFiles.STEP),
                      step,
                      new ReadFile(of.source(), of.file())));
    }
    UniversalState first = shared.get(0);
    add(
        UniversalFiles.optimizer(tag),
        first.optimizerFile(),
        new ReadFile(first.source(), first.file()));
  }

  private record PartGroup(int part, int group) {}

  /** There is one {@code optimizer_state.pt} for all model-parallel ranks. */
  private void requireAlike() throws IOException {
    List<ModelPart> parts = draft.state().parts();
    parts
        .get(0)
        .reading()
        .requireAlike(draft, parts, parts.stream().map(draft.state()::trained).toList());
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
