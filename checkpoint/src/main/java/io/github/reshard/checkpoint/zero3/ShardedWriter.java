package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.TensorParts;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.IOException;

/**
 * Plans the files of ZeRO-3. Those of a checkpoint of ZeRO-3 are edited; of anything else the files
 * are made anew.
 */
public final class ShardedWriter implements CheckpointWriter {
  @Override
  public ReshardPlan plan(TrainingState state, Target target) throws IOException {
    PlanDraft draft = new PlanDraft(state, target);
    if (state.parts().get(0).origin().orElse(null) instanceof TensorParts of
        && of.sources().get(0).origin().orElse(null) instanceof SavedSharded) {
      new RecutSharded(draft).add();
      draft.carryFiles();
      return draft.plan();
    }
    NewShardedCheckpoint anew = new NewShardedCheckpoint(draft, target);
    for (ModelPart part : state.parts()) {
      if (part.origin().orElse(null) instanceof SavedSharded saved) {
        new EditedSharded(draft, recipe -> recipe)
            .add(
                part,
                saved,
                (template, rank) ->
                    draft.inTag(CheckpointFiles.nameOf(template, rank, part.mpRank())));
      } else {
        anew.add(part);
      }
    }
    draft.carryFiles();
    return draft.plan();
  }
}
