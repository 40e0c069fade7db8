package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.deepspeed.PlainObjectsRecipe;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.zero12.EditedFlat;
import io.github.reshard.checkpoint.zero12.SavedFlat;
import io.github.reshard.checkpoint.zero3.EditedSharded;
import io.github.reshard.checkpoint.zero3.SavedSharded;
import java.io.IOException;
import java.util.Optional;
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
      if (part.origin().orElseThrow() instanceof SavedFlat saved) {
        new EditedFlat(draft, ZeroStage.AS_SAVED, Optional.empty(), form)
            .add(part, saved, (template, rank) -> like.nameOf(rank));
      } else {
        new EditedSharded(draft, form)
            .add(
                part,
                (SavedSharded) part.origin().orElseThrow(),
                (template, rank) -> like.nameOf(rank));
      }
    }
    draft.carryFiles();
    return draft.plan();
  }
}
