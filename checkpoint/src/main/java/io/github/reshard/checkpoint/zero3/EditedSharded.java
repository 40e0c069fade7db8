package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.SavedRank;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.state.ParameterSet;
import java.io.IOException;
import java.util.List;
import java.util.function.UnaryOperator;

/** Files of ZeRO-3 made of the source's own, which are of ZeRO-3 too. */
final class EditedSharded {
  private final PlanDraft draft;
  private final UnaryOperator<TorchRecipe> form;

  /**
   * @param form in which optimizer files are wanted
   */
  EditedSharded(PlanDraft draft, UnaryOperator<TorchRecipe> form) {
    this.draft = draft;
    this.form = form;
  }

  /** Adds the files of a model-parallel rank, the model files among them if there are some. */
  void add(ModelPart part, SavedSharded saved, SavedRank.Naming naming) throws IOException {
    ParameterSet set = draft.state().trained(part);
    int ranks = draft.worldSize();
    ShardedLayout target = new ShardedLayout(ranks, set.parameters(), saved.subGroupSize());
    if (!saved.layout().hasBoundariesOf(target)) {
      SubGroupStates.requireAgree(draft.state(), part, ranks);
    }
    int trained = draft.addModel(set, target);
    int frozen = ShardedModelRecipe.NONE_FROZEN;
    if (part.frozen().isPresent()) {
      ParameterSet pieces = draft.state().parameters().get(part.frozen().getAsInt());
      frozen = draft.addModel(pieces, new ShardedLayout(ranks, pieces.parameters(), 0));
    }
    List<String> dsIds =
        ParameterIds.labels(
            saved.names(),
            saved.tied(),
            saved.layout(),
            new ShardedStates(part.optimizers().get(0).root()).dsIds(),
            target);
    Contents ofModels = new Contents(draft, naming, frozen);
    Contents ofOptimizers = new Contents(draft, naming, trained);
    for (int rank = 0; rank < ranks; rank++) {
      int from = part.templateOf(rank);
      if (!saved.models().isEmpty()) {
        ReadFile model = saved.models().get(from);
        ofModels.add(
            model,
            from,
            rank,
            new ShardedModelRecipe(model.source(), rank, trained, frozen, from == rank));
      }
      ReadFile optimizer = part.optimizers().get(from);
      ofOptimizers.add(
          optimizer,
          from,
          rank,
          form.apply(new ShardedOptimizerRecipe(optimizer.source(), rank, trained, dsIds)));
    }
  }

  /**
   * Files of the ranks, many of which say the same.
   *
   * @param partitioned the model whose partitions the files have
   * @param kept for ranks on both sides
   * @param lent for ranks that are made like rank 0
   */
  private record Contents(
      PlanDraft draft,
      SavedRank.Naming naming,
      int partitioned,
      Shared<TorchTarget.Pickled> kept,
      Shared<TorchTarget.Pickled> lent) {
    Contents(PlanDraft draft, SavedRank.Naming naming, int partitioned) {
      this(draft, naming, partitioned, new Shared<>(), new Shared<>());
    }

    void add(ReadFile template, int templateRank, int rank, TorchRecipe recipe) {
      TorchTarget.Pickled content =
          (templateRank == rank ? kept : lent).get(template, () -> draft.pickled(recipe, template));
      String name = draft.state().sources().get(template.source()).stat().name();
      draft.addRankFile(naming.path(name, rank), recipe, content, template, rank, partitioned);
    }
  }
}
