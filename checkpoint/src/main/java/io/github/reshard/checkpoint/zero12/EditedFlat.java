package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.UnaryOperator;

/** Files of ZeRO-1 and 2 made of the source's own, which are of one of these too. */
public final class EditedFlat {
  private final PlanDraft draft;
  private final int stage;
  private final UnaryOperator<TorchRecipe> form;

  /**
   * @param stage of the target, or {@link ZeroStage#AS_SAVED}
   * @param form in which optimizer files are wanted
   */
  public EditedFlat(PlanDraft draft, int stage, UnaryOperator<TorchRecipe> form) {
    this.draft = draft;
    this.stage = stage;
    this.form = form;
  }

  /** Where the optimizer file of a target rank goes, by its template's name. */
  @FunctionalInterface
  public interface Naming {
    String path(String templateName, int rank);
  }

  /** Adds the files of a model-parallel rank, the model file among them if there is one. */
  public void add(ModelPart part, SavedFlat saved, Naming naming) throws IOException {
    int ranks = draft.worldSize();
    FlatSets target = target(part, saved);
    if (part.model().isPresent()) {
      addModelFile(part.model().get(), target.refs(0, ranks));
    }
    for (int rank = 0; rank < ranks; rank++) {
      addOptimizerFile(saved.shards(), rank, target.refs(rank, ranks), naming);
    }
    addPadding(saved.sets(), target);
    ParamGroups groups = target.groups();
    if (groups.roundRobin() && !AlignedShards.haveRightMappings(groups, ranks)) {
      draft.note(FlatWriter.ROUND_ROBIN_NOTE);
    }
  }

  /** Registers the parameters as they lie in the target. */
  private FlatSets target(ModelPart part, SavedFlat saved) {
    ParamGroups groups = saved.sets().groups();
    if (stage != ZeroStage.AS_SAVED) {
      ModelStates model = new ModelStates(part.model().orElseThrow().root());
      DsConfig config = DsConfig.of(model.root());
      groups =
          FlatPaddings.atStage(stage, model, groups, saved.shards().get(0).states())
              .withRoundRobin(config.roundRobin() && !config.makesBf16Optimizer(stage));
    }
    Map<Integer, List<Integer>> indices = new HashMap<>();
    TrainingState state = draft.state();
    for (int size : groups.expertParallelSizes()) {
      if (draft.worldSize() % Math.max(1, size) != 0) {
        throw ParamGroups.notDivided(
            state.checkpoint(), size, state.dataParallelRanks(), draft.worldSize());
      }
      List<Integer> ofSize = new ArrayList<>();
      for (int expertRank = 0; expertRank < Math.max(1, size); expertRank++) {
        int set = saved.sets().indices().get(size).get(expertRank);
        ofSize.add(
            draft.addModel(
                state.parameters().get(set), groups.layout(draft.worldSize(), size, expertRank)));
      }
      indices.put(size, ofSize);
    }
    return new FlatSets(groups, indices);
  }

  private void addModelFile(ReadFile file, List<GroupRef> refs) {
    TorchRecipe recipe = new FlatModelRecipe(file.source(), refs, stage);
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
      for (String state : model.wholeStates(ref.group())) {
        boolean needed = model.targetOf(ref.group(), state).elementsIn(rank, ref.group()) > 0;
        if (needed && shards.get(rank).states().find(g, state).isEmpty()) {
          return 0;
        }
      }
    }
    return rank;
  }

  private void addOptimizerFile(List<Shard> shards, int rank, List<GroupRef> refs, Naming naming) {
    Shard template = shards.get(templateRank(shards, rank, refs));
    ReadFile file = new ReadFile(template.source(), template.file());
    TorchRecipe recipe = form.apply(new FlatOptimizerRecipe(template.source(), rank, refs, stage));
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
  private void addPadding(FlatSets source, FlatSets target) throws IOException {
    PaddingReader reader = new PaddingReader(draft.state().store(), draft.state().sources());
    for (Map.Entry<Integer, List<Integer>> ofSize : source.indices().entrySet()) {
      for (int expertRank = 0; expertRank < ofSize.getValue().size(); expertRank++) {
        ParameterSet set = draft.state().parameters().get(ofSize.getValue().get(expertRank));
        int model = target.indices().get(ofSize.getKey()).get(expertRank);
        for (int g = 0; g < set.states().size(); g++) {
          for (Map.Entry<String, DType> state : set.states().get(g).entrySet()) {
            if (!state.getKey().equals(States.MASTER) && !set.isWhole(g, state.getKey())) {
              long bits = reader.uniformBits(set, g, state.getKey(), state.getValue());
              if (bits != 0) {
                draft.pad(new ReshardPlan.Padding(model, g, state.getKey(), bits));
              }
            }
          }
        }
      }
    }
  }
}
