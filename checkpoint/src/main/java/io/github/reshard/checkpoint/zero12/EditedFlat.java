package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.SavedRank;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.parallel.ExpertTarget;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.UnaryOperator;

/** Files of ZeRO-1 and 2 made of the source's own, which are of one of these too. */
final class EditedFlat {
  private final PlanDraft draft;
  private final int stage;
  private final Optional<ExpertTarget> experts;
  private final UnaryOperator<TorchRecipe> form;

  /**
   * @param stage of the target, or {@link ZeroStage#AS_SAVED}
   * @param experts how those of the target are divided, if not as saved
   * @param form in which optimizer files are wanted
   */
  EditedFlat(
      PlanDraft draft, int stage, Optional<ExpertTarget> experts, UnaryOperator<TorchRecipe> form) {
    this.draft = draft;
    this.stage = stage;
    this.experts = experts;
    this.form = form;
  }

  /** Adds the files of a model-parallel rank, the model file among them if there is one. */
  void add(ModelPart part, SavedFlat saved, SavedRank.Naming naming) throws IOException {
    int ranks = draft.worldSize();
    TargetSets planned = TargetSets.add(draft, part, saved, stage, experts);
    FlatSets target = planned.sets();
    Regrouping regrouping = planned.regrouping().orElse(null);
    if (part.model().isPresent()) {
      addModelFile(part.model().get(), target.refs(0, ranks), regrouping);
    }
    for (int rank = 0; rank < ranks; rank++) {
      addOptimizerFile(saved.shards(), rank, target.refs(rank, ranks), regrouping, naming);
    }
    addPadding(draft, planned.models());
    ParamGroups groups = target.groups();
    if (groups.roundRobin() && !AlignedShards.haveRightMappings(groups, ranks)) {
      draft.note(FlatWriter.ROUND_ROBIN_NOTE);
    }
  }

  private void addModelFile(ReadFile file, List<GroupRef> refs, Regrouping regrouping) {
    TorchRecipe recipe = new FlatModelRecipe(file.source(), refs, stage, regrouping);
    TorchTarget.Pickled content = draft.pickled(recipe, file);
    String name = draft.state().sources().get(file.source()).stat().name();
    PlanDraft.Written written = draft.addFile(draft.inTag(name), recipe, content, file);
    Map<String, TensorNode> module = new ModelStates(file.root()).module();
    Map<Integer, Address> flat = new HashMap<>();
    for (int e = 0; e < content.storages().size(); e++) {
      Rewritten.Storage storage = content.storages().get(e);
      Address begin = written.storages().get(e);
      if (storage.content() instanceof Rewritten.Content.FlatWeights weights) {
        flat.put(weights.group(), begin);
        GroupRef ref = refs.get(weights.group());
        FlatLayout to = ref.target(draft.models());
        DType dtype = module.get(to.parameters().get(to.flatOrder(ref.group())[0]).name()).dtype();
        addFlatPadding(draft, to, ref.group(), dtype.bytes(), begin);
      }
    }
    flat.forEach((group, begin) -> moveWeights(refs.get(group), file.source(), begin));
  }

  /** The zeros in a flat buffer of a model file. */
  static void addFlatPadding(
      PlanDraft draft, FlatLayout layout, int group, int width, Address begin) {
    for (FlatLayout.Run run : layout.flatPadding(group)) {
      draft.carry(
          SliceCopy.padding(begin.plus(run.start() * width), run.elements() * width, 0, width));
    }
  }

  /** The zeros of a weight in the rows behind the end of a vocabulary. */
  static void addRowsBehind(PlanDraft draft, LocalTensor local, DType dtype, Address begin) {
    int width = dtype.bytes();
    for (LocalTensor.Run rows : local.padding()) {
      draft.carry(
          SliceCopy.padding(begin.plus(rows.start() * width), rows.elements() * width, 0, width));
    }
  }

  /** The module's weights of a group move by themselves, into a flat buffer. */
  private void moveWeights(GroupRef ref, int modelSource, Address flat) {
    PartitionedModel model = draft.models().get(ref.model());
    if (model.expertRank() != ParamId.NO_EXPERT) {
      return;
    }
    FlatLayout to = ref.target(draft.models());
    for (int p = 0; p < model.parameters().size(); p++) {
      ModuleWeight weight = model.weights().get(p);
      boolean ofGroup = model.parameters().get(p).group() == ref.group();
      if (ofGroup && weight != null && weight.source().file() == modelSource) {
        draft.placeWeight(
            ref.model(),
            p,
            new ModuleWeight(
                weight.dtype(),
                weight.source(),
                flat.plus(to.flatStart(p) * weight.dtype().bytes())));
      }
    }
  }

  /**
   * The source rank that says everything that is not partitioned: the same rank, unless it has no
   * tensor of a state that the target rank holds.
   */
  private int templateRank(List<Shard> shards, int rank, List<GroupRef> refs) {
    if (rank >= shards.size()) {
      return 0;
    }
    for (int g = 0; g < refs.size(); g++) {
      GroupRef ref = refs.get(g);
      PartitionedModel model = ref.in(draft.models());
      for (String state : model.wholeStates(model.target().groupOf(ref.group()))) {
        boolean needed = model.targetOf(ref.group(), state).elementsIn(rank, ref.group()) > 0;
        if (needed && shards.get(rank).states().find(g, state).isEmpty()) {
          return 0;
        }
      }
    }
    return rank;
  }

  private void addOptimizerFile(
      List<Shard> shards,
      int rank,
      List<GroupRef> refs,
      Regrouping regrouping,
      SavedRank.Naming naming) {
    Shard template = shards.get(templateRank(shards, rank, refs));
    ReadFile file = new ReadFile(template.source(), template.file());
    TorchRecipe recipe =
        form.apply(new FlatOptimizerRecipe(template.source(), rank, refs, stage, regrouping));
    TorchTarget.Pickled content = draft.pickled(recipe, file);
    String path = naming.path(draft.state().sources().get(template.source()).stat().name(), rank);
    PlanDraft.Written written = draft.addFile(path, recipe, content, file);
    for (int e = 0; e < content.storages().size(); e++) {
      if (content.storages().get(e).content() instanceof Rewritten.Content.PartitionOf piece) {
        GroupRef ref = refs.get(piece.group());
        draft.place(
            ref.model(),
            new Partition(rank, ref.group(), piece.state()),
            written.storages().get(e));
      }
    }
  }

  /**
   * Reads what the source's padding holds: an optimizer may begin its state at another value than
   * zero.
   */
  static void addPadding(PlanDraft draft, Map<Integer, ParameterSet> models) throws IOException {
    PaddingReader reader = new PaddingReader(draft.state().store(), draft.state().sources());
    for (Map.Entry<Integer, ParameterSet> model : models.entrySet()) {
      ParameterSet set = model.getValue();
      for (int g = 0; g < set.states().size(); g++) {
        for (Map.Entry<String, DType> state : set.states().get(g).entrySet()) {
          if (!state.getKey().equals(States.MASTER) && !set.isWhole(g, state.getKey())) {
            long bits = reader.uniformBits(set, g, state.getKey(), state.getValue());
            if (bits != 0) {
              draft.pad(new ReshardPlan.Padding(model.getKey(), g, state.getKey(), bits));
            }
          }
        }
      }
    }
  }
}
