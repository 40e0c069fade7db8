package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.TensorParts;
import io.github.reshard.checkpoint.deepspeed.TensorRecipe;
import io.github.reshard.checkpoint.deepspeed.UncutTensors;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;

/**
 * Files of ZeRO-3 of other tensor-parallel ranks, made of the source's own. What is not cut is said
 * by the same rank's files, or by those of rank 0.
 */
final class RecutSharded {
  private final PlanDraft draft;
  private final List<ModelPart> parts;
  private final TensorParts origin;
  private final ParameterSet set;
  private final int ranks;
  private int model;
  private int frozen = TensorRecipe.NONE_FROZEN;

  RecutSharded(PlanDraft draft) {
    this.draft = draft;
    this.parts = draft.state().parts();
    this.origin = origin(parts.get(0));
    this.set = draft.state().trained(parts.get(0));
    this.ranks = draft.worldSize();
  }

  private static TensorParts origin(ModelPart part) {
    return (TensorParts) part.origin().orElseThrow();
  }

  private static SavedSharded saved(ModelPart source) {
    return (SavedSharded) source.origin().orElseThrow();
  }

  /** Adds the files of all tensor-parallel ranks. */
  void add() throws IOException {
    long subGroupSize = saved(origin.sources().get(0)).subGroupSize();
    List<ShardedLayout> layouts = new ArrayList<>();
    for (ParameterSet.Share share : set.shares()) {
      layouts.add(new ShardedLayout(ranks, set.local(share), subGroupSize));
    }
    requireOneKind(layouts, subGroupSize);
    model = draft.addModel(set, set.target(layouts));
    if (parts.get(0).frozen().isPresent()) {
      frozen =
          NewShardedCheckpoint.addFrozen(
              draft, draft.state().parameters().get(parts.get(0).frozen().getAsInt()));
    }
    for (ModelPart part : parts) {
      add(part, layouts.get(origin(part).to()));
    }
    ShardedReplicas.requireAlike(draft, origin.sources(), layouts.get(0));
    UncutTensors.requireBuffersAlike(draft.state(), origin);
  }

  /**
   * Sub-groups are numbered within a rank; a set of parameters has one numbering.
   *
   * @param layouts of the target's ranks
   */
  private void requireOneKind(List<ShardedLayout> layouts, long subGroupSize) throws IOException {
    ShardedLayout first = saved(origin.sources().get(0)).layout();
    for (ModelPart source : origin.sources()) {
      if (saved(source).subGroupSize() != subGroupSize
          || !saved(source).layout().hasBoundariesOf(first)) {
        throw refused("its tensor-parallel ranks have sub-groups of different parameters");
      }
      if (!first.hasBoundariesOf(layouts.get(0))) {
        SubGroupStates.requireAgree(draft.state(), source, ranks);
      }
    }
    for (ShardedLayout layout : layouts) {
      if (!layout.hasBoundariesOf(layouts.get(0))) {
        throw refused(
            "the tensor-parallel ranks of the target would have sub-groups of different"
                + " parameters");
      }
    }
  }

  private RefusedException refused(String problem) {
    return new RefusedException(
        draft.state().checkpoint(),
        problem + ". Leave --targetTensorParallelSize out, or choose another.");
  }

  private void add(ModelPart part, ShardedLayout target) {
    TensorParts of = origin(part);
    SavedSharded saved = saved(origin.sources().get(of.from()));
    List<String> dsIds =
        ParameterIds.labels(
            saved.names(),
            saved.tied(),
            saved.layout(),
            new ShardedStates(part.optimizers().get(0).root()).dsIds(),
            target);
    for (int rank = 0; rank < ranks; rank++) {
      int from = part.templateOf(rank);
      ReadFile file = saved.models().get(from);
      TorchRecipe recipe =
          TensorRecipe.of(
              new RecutShardedModelRecipe(
                  file.source(), model, frozen, of.from(), of.to(), from == rank),
              model,
              frozen,
              of);
      draft.addRankFile(
          path(part, file, rank),
          recipe,
          draft.pickled(recipe, file),
          file,
          of.to() * ranks + rank,
          frozen);
      addOptimizerFile(part, rank, dsIds);
    }
  }

  private String path(ModelPart part, ReadFile template, int rank) {
    String name = draft.state().sources().get(template.source()).stat().name();
    return draft.inTag(CheckpointFiles.nameOf(name, rank, part.mpRank()));
  }

  private void addOptimizerFile(ModelPart part, int rank, List<String> dsIds) {
    TensorParts of = origin(part);
    ReadFile file = part.optimizers().get(part.templateOf(rank));
    TorchRecipe recipe =
        TensorRecipe.of(
            new RecutShardedOptimizerRecipe(file.source(), model, of.from(), of.to(), dsIds),
            model,
            frozen,
            of);
    TorchTarget.Pickled content = draft.pickled(recipe, file);
    PlanDraft.Written written = draft.addFile(path(part, file, rank), recipe, content, file);
    for (int s = 0; s < content.storages().size(); s++) {
      if (content.storages().get(s).content() instanceof Rewritten.Content.PartitionOf piece) {
        draft.place(
            model,
            new Partition(of.to() * ranks + rank, piece.group(), piece.state()),
            written.storages().get(s));
      }
    }
  }
}
