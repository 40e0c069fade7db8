package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.Conversions;
import io.github.reshard.checkpoint.deepspeed.LayerFiles;
import io.github.reshard.checkpoint.deepspeed.TensorParts;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.parallel.ExpertTarget;
import io.github.reshard.checkpoint.parallel.PipelineTarget;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.IOException;
import java.util.Optional;

/**
 * Plans the files of ZeRO-1 and 2. A checkpoint of either is edited, so that N → N gives back every
 * byte; of anything else the files are made anew.
 */
public final class FlatWriter implements CheckpointWriter {
  static final String ROUND_ROBIN_NOTE =
      "round_robin_gradients: param_slice_mappings are written as DeepSpeed writes them, which is"
          + " not where the parameters are. load_checkpoint ignores them; ds_to_universal.py would"
          + " scramble this checkpoint.";

  private final int stage;
  private final Optional<ExpertTarget> experts;
  private final Optional<PipelineTarget> pipeline;

  /**
   * @param stage 1 or 2; {@link ZeroStage#AS_SAVED} for that of a source that is of one of these
   */
  public FlatWriter(int stage) {
    this(stage, Optional.empty(), Optional.empty());
  }

  /**
   * @param stage as of the other one
   * @param experts how experts are divided, if not as saved
   * @param pipeline the stages of the pipeline, if they are not to stay as saved
   */
  public FlatWriter(int stage, Optional<ExpertTarget> experts, Optional<PipelineTarget> pipeline) {
    this.stage = stage;
    this.experts = experts;
    this.pipeline = pipeline;
  }

  @Override
  public ReshardPlan plan(TrainingState state, Target target) throws IOException {
    PlanDraft draft = new PlanDraft(state, target);
    boolean recut = state.parts().get(0).origin().orElse(null) instanceof TensorParts;
    ModelPart first = Conversions.sources(state.parts().get(0)).get(0);
    boolean ownStage = first.origin().orElse(null) instanceof SavedFlat saved && saved.is(stage);
    if (pipeline.isPresent() || (recut && ownStage && Conversions.hasLayers(state))) {
      new RestagedFlat(draft, pipeline).add();
      state.carried().stream()
          .filter(file -> !recut || !LayerFiles.isOne(file))
          .forEach(draft::carry);
      return draft.plan();
    }
    NewFlatCheckpoint anew = new NewFlatCheckpoint(draft, target, stage);
    if (recut && first.origin().orElse(null) instanceof SavedFlat) {
      new RecutFlat(draft, ownStage ? ZeroStage.AS_SAVED : stage).add();
      draft.carryFiles();
      return draft.plan();
    }
    for (ModelPart part : state.parts()) {
      if (part.origin().orElse(null) instanceof SavedFlat saved) {
        int to = saved.is(stage) ? ZeroStage.AS_SAVED : stage;
        if (to != ZeroStage.AS_SAVED) {
          FlatConversion.requireConvertible(draft, part, saved, to);
        }
        new EditedFlat(draft, to, experts, recipe -> recipe)
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
    if (anew.derives()) {
      draft.note(
          "ZeRO-3 stores no module weights; those of the output are its masters, rounded to the"
              + " module's type.");
    }
    return draft.plan();
  }
}
