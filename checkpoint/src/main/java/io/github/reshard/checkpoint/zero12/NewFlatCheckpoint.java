package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.copy.WeightCast;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.Conversions;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.DsVersion;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.WholeTensors;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Files of ZeRO-1 and 2 made of what files of another stage say. */
final class NewFlatCheckpoint {
  private final PlanDraft draft;
  private final Target target;
  private final int stage;
  private final Map<Integer, Integer> models = new HashMap<>();
  private final Map<Integer, Integer> frozenModels = new HashMap<>();
  private boolean derives;

  NewFlatCheckpoint(PlanDraft draft, Target target, int stage) {
    this.draft = draft;
    this.target = target;
    this.stage = stage;
  }

  /** Adds the files of a model-parallel rank. */
  void add(ModelPart part) throws IOException {
    ReadFile modelFile = part.model().orElseThrow();
    ModelStates model = new ModelStates(modelFile.root());
    ParameterSet set = draft.state().trained(part);
    OptimizerValues values = part.reading().read(part.optimizers().get(0).file(), set.states());
    requireConvertible(model, values, set);
    Conversions.requireShared(draft, part, target, this::refused);
    int share = set.shareOf(part.mpRank());
    int trained =
        models.computeIfAbsent(
            part.trained().get(0),
            index ->
                draft.addModel(
                    set,
                    set.target(
                        set.shares().stream()
                            .map(of -> layout(model, values, set.local(of)))
                            .toList())));
    int frozen = NewFlatModelRecipe.NONE_FROZEN;
    if (part.frozen().isPresent()) {
      frozen =
          frozenModels.computeIfAbsent(
              part.frozen().getAsInt(),
              index -> addFrozen(draft, draft.state().parameters().get(index)));
    }
    addModelFile(part, modelFile, model, trained, share, frozen);
    for (int rank = 0; rank < draft.worldSize(); rank++) {
      ReadFile template = part.optimizers().get(part.templateOf(rank));
      TorchRecipe recipe =
          Conversions.form(
              new NewFlatOptimizerRecipe(
                  template.source(), rank, trained, share, stage, part.reading()),
              trained,
              frozen,
              part);
      String name = draft.state().sources().get(template.source()).stat().name();
      draft.addRankFile(
          draft.inTag(CheckpointFiles.nameOf(name, rank, part.mpRank())),
          recipe,
          draft.pickled(recipe, template),
          template,
          share * draft.worldSize() + rank,
          trained);
    }
  }

  /** Registers frozen parameters, which ZeRO-1 and 2 have whole on each model-parallel rank. */
  static int addFrozen(PlanDraft draft, ParameterSet set) {
    return draft.addModel(
        set,
        set.target(
            set.shares().stream().map(share -> new WholeTensors(set.local(share))).toList()));
  }

  /** Whether weights were made of the masters, because no file has them. */
  boolean derives() {
    return derives;
  }

  private RefusedException refused(String problem) {
    return Conversions.refused(draft.state(), stage, problem);
  }

  private void requireConvertible(ModelStates model, OptimizerValues values, ParameterSet set) {
    DsConfig.of(model.root());
    Conversions.note(draft, values, stage);
    if (Conversions.hasLayers(draft.state())) {
      throw refused("it has layer files of a pipeline");
    }
    for (int g = 0; g < values.paramGroups().size(); g++) {
      int group = g;
      if (set.parameters().stream().noneMatch(p -> p.group() == group)) {
        throw refused("param group %d has no trainable parameter".formatted(g));
      }
    }
  }

  /** How the parameters lie at the target's stage. */
  private FlatLayout layout(ModelStates model, OptimizerValues values, List<Parameter> parameters) {
    DsConfig config = DsConfig.of(model.root());
    Map<String, TensorNode> module = model.module();
    List<FlatLayout.Group> groups = new ArrayList<>();
    List<Integer> alignments = new ArrayList<>();
    for (int g = 0; g < values.paramGroups().size(); g++) {
      int group = g;
      List<Parameter> ofGroup = parameters.stream().filter(p -> p.group() == group).toList();
      groups.add(FlatLayout.Group.dense(ofGroup.size(), draft.worldSize()));
      alignments.add(
          ofGroup.stream()
              .filter(p -> module.containsKey(p.name()))
              .map(p -> ParameterAlignments.of(module.get(p.name()).dtype()))
              .findFirst()
              .orElse(1));
    }
    boolean roundRobin = config.roundRobin() && !config.makesBf16Optimizer(stage);
    if (roundRobin) {
      draft.note(FlatWriter.ROUND_ROBIN_NOTE);
    }
    return new FlatLayout(
        draft.worldSize(),
        parameters,
        groups,
        roundRobin,
        FlatPaddings.configured(
            DsVersion.in(values.root(), model.root()), config, stage, alignments));
  }

  private void addModelFile(
      ModelPart part, ReadFile template, ModelStates model, int trained, int share, int frozen) {
    TorchRecipe recipe =
        Conversions.form(
            new NewFlatModelRecipe(template.source(), trained, share, frozen, stage),
            trained,
            frozen,
            part);
    TorchTarget.Pickled content = draft.pickled(recipe, template);
    PlanDraft.Written written =
        draft.addFile(
            draft.inTag("mp_rank_%02d_model_states.pt".formatted(part.mpRank())),
            recipe,
            content,
            template);
    PartitionedModel partitioned = draft.models().get(trained);
    FlatLayout layout = FlatLayout.of(partitioned.target().ofHolder(share));
    Map<Integer, Address> flat = new HashMap<>();
    for (int e = 0; e < content.storages().size(); e++) {
      Rewritten.Storage storage = content.storages().get(e);
      Address begin = written.storages().get(e);
      if (storage.content() instanceof Rewritten.Content.PartitionOf piece) {
        int own = draft.state().parameters().get(part.frozen().getAsInt()).shareOf(part.mpRank());
        draft.place(frozen, new Partition(own, piece.group(), piece.state()), begin);
      } else if (storage.content() instanceof Rewritten.Content.FlatWeights weights) {
        int group = weights.group();
        flat.put(group, begin);
        long width = storage.bytes() / Math.max(1, layout.flatElements(group));
        EditedFlat.addFlatPadding(draft, layout, group, (int) width, begin);
      }
    }
    Map<String, TensorNode> module = model.module();
    for (int p = 0; p < layout.parameters().size(); p++) {
      Parameter parameter = layout.parameters().get(p);
      TensorNode placeholder = module.get(parameter.name());
      if (placeholder == null) {
        throw model
            .root()
            .get("module")
            .refused("has no placeholder of %s, which says its type.".formatted(parameter.name()));
      }
      DType master = partitioned.statesOf(p).get(States.MASTER);
      DType dtype = placeholder.dtype();
      if (!WeightCast.supports(master, dtype)) {
        throw model
            .root()
            .get("module")
            .refused(
                "%s is of type %s, its master weights of %s; that cast is not supported."
                    .formatted(parameter.name(), dtype, master));
      }
      Address begin = flat.get(parameter.group()).plus(layout.flatStart(p) * dtype.bytes());
      placeWeight(trained, p, dtype, begin);
      LocalTensor local = partitioned.target().localTensor(share, p);
      EditedFlat.addRowsBehind(draft, local, dtype, begin);
    }
  }

  /** The next model-parallel rank's local tensor of a weight goes to {@code begin}. */
  private void placeWeight(int trained, int p, DType dtype, Address begin) {
    ModuleWeight weight = draft.models().get(trained).weights().get(p);
    List<Address> targets = new ArrayList<>();
    List<Address> sources = List.of();
    if (weight != null) {
      sources = weight.sources();
      targets.addAll(weight.targets());
    }
    derives |= sources.isEmpty();
    targets.add(begin);
    draft.placeWeight(trained, p, new ModuleWeight(dtype, sources, targets));
  }
}
