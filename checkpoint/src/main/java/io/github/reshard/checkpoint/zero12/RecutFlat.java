package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.TensorParts;
import io.github.reshard.checkpoint.deepspeed.TensorRecipe;
import io.github.reshard.checkpoint.deepspeed.UncutTensors;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Files of ZeRO-1 and 2 of other tensor-parallel ranks, made of the source's own. What is not cut
 * is said by the same rank's files, or by those of rank 0.
 */
final class RecutFlat {
  private final PlanDraft draft;
  private final List<ModelPart> parts;
  private final TensorParts origin;
  private final ParameterSet set;
  private final ParamGroups saved;
  private final int ranks;
  private final int stage;
  private int model;
  private int frozen = TensorRecipe.NONE_FROZEN;

  /**
   * @param stage of the target, or {@link ZeroStage#AS_SAVED}
   */
  RecutFlat(PlanDraft draft, int stage) {
    this.draft = draft;
    this.parts = draft.state().parts();
    this.origin = origin(parts.get(0));
    this.set = draft.state().trained(parts.get(0));
    this.saved = flat(origin.sources().get(0)).sets().groups();
    this.ranks = draft.worldSize();
    this.stage = stage;
  }

  private static TensorParts origin(ModelPart part) {
    return (TensorParts) part.origin().orElseThrow();
  }

  private static SavedFlat flat(ModelPart source) {
    return (SavedFlat) source.origin().orElseThrow();
  }

  /** Adds the files of all tensor-parallel ranks. */
  void add() throws IOException {
    requireOneKind();
    ParamGroups groups = TargetSets.atStage(origin.sources().get(0), stage);
    List<FlatLayout> layouts = new ArrayList<>();
    for (ParameterSet.Share share : set.shares()) {
      layouts.add(groups.withParameters(set.local(share)).layout(ranks, ParamGroups.DENSE, 0));
    }
    model = draft.addModel(set, set.target(layouts));
    if (parts.get(0).frozen().isPresent()) {
      frozen =
          NewFlatCheckpoint.addFrozen(
              draft, draft.state().parameters().get(parts.get(0).frozen().getAsInt()));
    }
    List<Map<Integer, Address>> weights = new ArrayList<>();
    for (ModelPart part : parts) {
      weights.add(addModelFile(part));
      for (int rank = 0; rank < ranks; rank++) {
        addOptimizerFile(part, rank);
      }
    }
    placeWeights(weights);
    EditedFlat.addPadding(draft, Map.of(model, set));
    SharedStates.requireAlike(
        draft, model, origin.sources().stream().map(of -> of.optimizers().get(0)).toList());
    UncutTensors.requireBuffersAlike(draft.state(), origin);
    if (groups.roundRobin() && !AlignedShards.haveRightMappings(groups, ranks)) {
      draft.note(FlatWriter.ROUND_ROBIN_NOTE);
    }
  }

  private void requireOneKind() {
    for (ModelPart source : origin.sources()) {
      if (stage != ZeroStage.AS_SAVED) {
        FlatConversion.requireConvertible(draft, source, flat(source), stage);
      }
      ParamGroups groups = flat(source).sets().groups();
      if (groups.roundRobin() != saved.roundRobin()
          || !groups.paddings().equals(saved.paddings())) {
        throw new RefusedException(
            draft.state().checkpoint(),
            "its tensor-parallel ranks pad or order their parameters in different ways. The files"
                + " are of different runs.");
      }
    }
  }

  private List<GroupRef> refs(TensorParts of) {
    List<GroupRef> refs = new ArrayList<>();
    for (int g = 0; g < saved.groups().size(); g++) {
      refs.add(new GroupRef(model, g, of.from(), of.to()));
    }
    return refs;
  }

  /** Where each weight begins in the file of a rank. */
  private Map<Integer, Address> addModelFile(ModelPart part) {
    TensorParts of = origin(part);
    ReadFile template = part.model().orElseThrow();
    TorchRecipe recipe =
        TensorRecipe.of(
            new RecutFlatModelRecipe(template.source(), refs(of), frozen, stage),
            model,
            frozen,
            of);
    TorchTarget.Pickled content = draft.pickled(recipe, template);
    PlanDraft.Written written =
        draft.addFile(
            draft.inTag("mp_rank_%02d_model_states.pt".formatted(part.mpRank())),
            recipe,
            content,
            template);
    FlatLayout layout = FlatLayout.of(draft.models().get(model).target().ofHolder(of.to()));
    Map<Integer, Address> begins = new HashMap<>();
    for (int s = 0; s < content.storages().size(); s++) {
      Rewritten.Storage storage = content.storages().get(s);
      Address begin = written.storages().get(s);
      if (storage.content() instanceof Rewritten.Content.FlatWeights weights) {
        int group = weights.group();
        int width = Math.toIntExact(storage.bytes() / layout.flatElements(group));
        for (int p : layout.flatOrder(group)) {
          begins.put(p, begin.plus(layout.flatStart(p) * width));
        }
        EditedFlat.addFlatPadding(draft, layout, group, width, begin);
      } else if (storage.content() instanceof Rewritten.Content.Weight weight) {
        begins.put(weight.parameter(), begin);
      } else if (storage.content() instanceof Rewritten.Content.PartitionOf piece) {
        draft.place(frozen, new Partition(of.to(), piece.group(), piece.state()), begin);
      }
    }
    return begins;
  }

  private void addOptimizerFile(ModelPart part, int rank) {
    TensorParts of = origin(part);
    ReadFile template = part.optimizers().get(part.templateOf(rank));
    TorchRecipe recipe =
        TensorRecipe.of(
            new FlatOptimizerRecipe(template.source(), rank, refs(of), stage), model, frozen, of);
    String name = draft.state().sources().get(template.source()).stat().name();
    draft.addRankFile(
        draft.inTag(CheckpointFiles.nameOf(name, rank, part.mpRank())),
        recipe,
        draft.pickled(recipe, template),
        template,
        of.to() * ranks + rank,
        model);
  }

  private void placeWeights(List<Map<Integer, Address>> begins) {
    for (int p = 0; p < set.parameters().size(); p++) {
      ModuleWeight weight = set.weights().get(p);
      if (weight == null) {
        continue;
      }
      List<Address> targets = new ArrayList<>();
      for (int rank = 0; rank < begins.size(); rank++) {
        Address begin = begins.get(rank).get(p);
        targets.add(begin);
        LocalTensor local = set.shares().get(rank).tensors().get(p);
        EditedFlat.addRowsBehind(draft, local, weight.dtype(), begin);
      }
      draft.placeWeight(model, p, new ModuleWeight(weight.dtype(), weight.sources(), targets));
    }
  }
}
