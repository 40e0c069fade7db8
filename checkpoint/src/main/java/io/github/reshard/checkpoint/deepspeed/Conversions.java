package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.CarriedFile;
import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.TrainingState;

/** What the writers of all stages say and ask of a checkpoint of another stage. */
public final class Conversions {
  private Conversions() {}

  /**
   * What is thrown where a checkpoint cannot be turned to another stage.
   *
   * @param problem what the checkpoint has or lacks, a sentence without its end
   */
  public static RefusedException refused(TrainingState state, int stage, String problem) {
    return new RefusedException(
        state.checkpoint(),
        "%s, so it cannot be turned to stage %d. Leave --targetStage out, or choose another."
            .formatted(problem, stage));
  }

  /** Says from which stage to which. */
  public static void note(PlanDraft draft, OptimizerValues values, int stage) {
    int saved = new OptimizerFile(values.root()).stage();
    draft.note("stage %d → stage %d".formatted(saved, stage));
  }

  /** Whether the weights of a pipeline's layers stand in files of their own. */
  public static boolean hasLayers(TrainingState state) {
    return state.carried().stream().anyMatch(LayerFiles::isOne);
  }

  /** Whether there are files of experts, or the model file counts experts. */
  public static boolean hasExperts(TrainingState state, ModelStates model) {
    return model.root().findPresent("num_experts").isPresent()
        || state.carried().stream()
            .filter(CarriedFile::ofTag)
            .anyMatch(file -> CheckpointFiles.isOfExperts(file.path()));
  }
}
