package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ModuleParameters;
import io.github.reshard.checkpoint.deepspeed.PlanBuilder;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.List;

/** Whether files of ZeRO-1 or 2 can be turned to another stage. */
final class FlatConversion {
  private FlatConversion() {}

  /**
   * Checks that another stage can be made of it.
   *
   * @throws RefusedException if DeepSpeed does not support at the target's stage what the
   *     checkpoint has, or this program does not
   */
  static void requireConvertible(PlanBuilder plan, ModelStates model, OptimizerStates states) {
    if (!model.hasShapes()) {
      throw plan.notConvertible(
          "it is a mixture of experts that DeepSpeed before 0.19.3 saved, without its configuration in the model file");
    }
    DsConfig config = DsConfig.of(model.root());
    boolean experts =
        !plan.files.experts().isEmpty() || model.root().findPresent("num_experts").isPresent();
    if (plan.targetStage > 1 && !plan.files.layers().isEmpty()) {
      throw plan.notConvertible("pipeline modules do not work with ZeRO-2 and 3 in DeepSpeed");
    }
    if (experts && plan.targetStage == 2 && !ModuleParameters.of(model).frozen().isEmpty()) {
      throw plan.notConvertible("it has both a mixture of experts and frozen parameters");
    }
    if (states.isElastic()
        && (plan.targetStage == 3 || config.makesBf16Optimizer(plan.targetStage))) {
      throw plan.notConvertible(
          "it was saved with elastic_checkpoint, which neither ZeRO-3 nor BF16_Optimizer has");
    }
    plan.notes.add("stage %d → stage %d".formatted(states.stage(), plan.targetStage));
    if (plan.targetStage != 3) {
      return;
    }
    if (experts) {
      throw plan.notConvertible("native mixtures of experts do not work with ZeRO-3 in DeepSpeed");
    }
    if (plan.files.optimizers().size() > 1) {
      throw plan.notConvertible("it has more than one model-parallel rank");
    }
    if (states.stateDict().findPresent("universal_checkpoint_info").isPresent()) {
      throw plan.notConvertible("it was saved with automatic tensor parallelism");
    }
    requirePlainZero3(config, !ModuleParameters.of(model).frozen().isEmpty());
  }

  /** What only takes effect at stage 3 may be in the configuration already. */
  private static void requirePlainZero3(DsConfig config, boolean frozen) {
    config
        .zero("mics_shard_size")
        .filter(size -> size.asWhole().orElse(0L) > 0)
        .ifPresent(
            size -> {
              throw size.refused("MiCS is not supported; remove it to turn it to stage 3.");
            });
    for (String offload : List.of("offload_optimizer", "offload_param")) {
      config
          .zero(offload, "device")
          .filter(device -> device.asString().equals("nvme"))
          .ifPresent(
              device -> {
                throw device.refused(
                    "at stage 3 DeepSpeed would look for files on NVMe, which are not written.");
              });
    }
    config
        .zero("zero_quantized_nontrainable_weights")
        .filter(PickledValue::isTrue)
        .filter(set -> frozen)
        .ifPresent(
            set -> {
              throw set.refused(
                  "at stage 3 frozen parameters would be quantized, which is not done.");
            });
  }
}
