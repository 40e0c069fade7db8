package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.CarriedFile;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TrainingState;
import java.io.IOException;
import java.util.List;
import java.util.function.Function;

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

  /**
   * The parts as they were read that one of the target is made of: of several tensor-parallel ranks
   * where their number changes.
   */
  public static List<ModelPart> sources(ModelPart part) {
    return part.origin().orElse(null) instanceof TensorParts of ? of.sources() : List.of(part);
  }

  /** What a rank's file is where the number of tensor-parallel ranks changes as well. */
  public static TorchRecipe form(TorchRecipe recipe, int model, int frozen, ModelPart part) {
    return part.origin().orElse(null) instanceof TensorParts of
        ? TensorRecipe.of(recipe, model, frozen, of)
        : recipe;
  }

  /**
   * Checks that a part of another stage can be made of what this one's files say.
   *
   * @param refusal of the writer, of a problem that is said without its end
   * @throws RefusedException if what is not partitioned is not one value for a param group, or not
   *     the same on all ranks of which only one goes on
   */
  public static void requireShared(
      PlanDraft draft, ModelPart part, Target target, Function<String, RefusedException> refusal)
      throws IOException {
    for (ModelPart source : sources(part)) {
      if (source.origin().isPresent()) {
        source.reading().requireShared(draft.state(), source, target, refusal);
      }
    }
    if (part.origin().orElse(null) instanceof TensorParts of && of.to() == 0) {
      part.reading().requireAlike(draft, of.sources(), of.sets());
      UncutTensors.requireBuffersAlike(draft.state(), of);
    }
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
