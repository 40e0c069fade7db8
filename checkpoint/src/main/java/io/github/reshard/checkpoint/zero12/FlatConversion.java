package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.Conversions;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ModuleParameters;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;

/** Whether files of ZeRO-1 can be turned to those of ZeRO-2, and the other way round. */
final class FlatConversion {
  private FlatConversion() {}

  /**
   * Checks that the other of these stages can be made of it.
   *
   * @throws RefusedException if DeepSpeed does not support at the target's stage what the
   *     checkpoint has, or this program does not
   */
  static void requireConvertible(PlanDraft draft, ModelPart part, SavedFlat saved, int stage) {
    ModelStates model = new ModelStates(part.model().orElseThrow().root());
    OptimizerStates states = saved.shards().get(0).states();
    if (!model.hasShapes()) {
      throw refused(
          draft,
          stage,
          "it is a mixture of experts that DeepSpeed before 0.19.3 saved, without its configuration"
              + " in the model file");
    }
    DsConfig config = DsConfig.of(model.root());
    if (stage > 1 && Conversions.hasLayers(draft.state())) {
      throw refused(draft, stage, "pipeline modules do not work with ZeRO-2 and 3 in DeepSpeed");
    }
    if (Conversions.hasExperts(draft.state(), model)
        && stage == 2
        && !ModuleParameters.of(model).frozen().isEmpty()) {
      throw refused(draft, stage, "it has both a mixture of experts and frozen parameters");
    }
    if (states.isElastic() && config.makesBf16Optimizer(stage)) {
      throw refused(
          draft,
          stage,
          "it was saved with elastic_checkpoint, which neither ZeRO-3 nor BF16_Optimizer has");
    }
    draft.note("stage %d → stage %d".formatted(states.stage(), stage));
    MuonMomentum.requireNoneToConvert(states);
  }

  private static RefusedException refused(PlanDraft draft, int stage, String problem) {
    return Conversions.refused(draft.state(), stage, problem);
  }
}
