package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.zero12.SavedFlat;
import io.github.reshard.checkpoint.zero3.SavedSharded;
import java.io.IOException;
import java.util.Optional;

/**
 * Plans a Universal Checkpoint, which a run at any stage and any number of data-parallel ranks
 * loads with {@code load_universal}. It is what DeepSpeed's own converter would make of the
 * checkpoint resharded to one rank: every state of a parameter whole in a file of its own, the
 * model files as one rank saves them, and what all share in {@code zero/optimizer_state.pt}.
 *
 * <p>Tensors come from where the layout proves them to be, never from {@code param_slice_mappings}.
 */
public final class UniversalWriter implements CheckpointWriter {
  private final Optional<Integer> ranks;
  private final int stage;

  /**
   * @param ranks how many data-parallel ranks will load it, if that is known
   * @param stage the ZeRO stage that they will have, or {@link ZeroStage#AS_SAVED}
   */
  public UniversalWriter(Optional<Integer> ranks, int stage) {
    this.ranks = ranks;
    this.stage = stage;
  }

  @Override
  public ReshardPlan plan(TrainingState state, Target target) throws IOException {
    PlanDraft draft = new PlanDraft(state, target, UniversalFiles.tag(state.tag()));
    UniversalDraft files = new UniversalDraft(draft, new UniversalLoad(draft, ranks, stage));
    for (ModelPart part : state.parts()) {
      if (part.origin().orElse(null) instanceof SavedFlat saved) {
        files.addFlat(part, saved);
      } else {
        files.addSharded(part, (SavedSharded) part.origin().orElseThrow());
      }
    }
    files.finish();
    draft.carryFiles();
    return draft.plan(ReshardPlan.ANY_WORLD_SIZE, state.evidence());
  }
}
