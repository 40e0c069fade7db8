package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.deepspeed.PlainObjectsRecipe;
import io.github.reshard.checkpoint.deepspeed.SavedRank;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.IOException;
import java.util.function.UnaryOperator;

/** Plans shards like those that a user saved, of such shards. */
public final class UserShardsWriter implements CheckpointWriter {
  private final UserShards like;
  private final UnaryOperator<TorchRecipe> form;

  /**
   * @param like the shards that are resharded, which say the names
   * @param plainObjects whether there are dicts and numbers in the place of DeepSpeed's own objects
   */
  public UserShardsWriter(UserShards like, boolean plainObjects) {
    this.like = like;
    this.form = plainObjects ? PlainObjectsRecipe::new : UnaryOperator.identity();
  }

  @Override
  public ReshardPlan plan(TrainingState state, Target target) throws IOException {
    PlanDraft draft = new PlanDraft(state, target);
    for (ModelPart part : state.parts()) {
      SavedRank saved = (SavedRank) part.origin().orElseThrow();
      saved.edit(draft, part, form, (template, rank) -> like.nameOf(rank));
    }
    draft.carryFiles();
    return draft.plan();
  }
}
