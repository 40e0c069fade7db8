package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.Optional;

/**
 * What the optimizer files of all stages have in common (DeepSpeed 0.19.6, runtime/engine.py,
 * {@code _save_zero_checkpoint}).
 *
 * @param root the pickled dict, either what {@code save_checkpoint} wraps or the bare {@code
 *     state_dict()}
 */
public record OptimizerFile(PickledValue root) {
  public static final String PARTITION_COUNT = "partition_count";

  /** Of ZeRO-3 (runtime/zero/stage3.py, {@code _rigid_state_dict}). */
  public static final String FLAT_GROUPS = "fp32_flat_groups";

  /** Where a file has the optimizer's state; at ZeRO-3 a key within that as well. */
  public static final String WRAPPER = "optimizer_state_dict";

  private static final String ZERO_STAGE = "zero_stage";

  /** The optimizer's own {@code state_dict()}. */
  public PickledValue stateDict() {
    return root.find(FLAT_GROUPS).isPresent() ? root : root.find(WRAPPER).orElse(root);
  }

  /** Whether BF16_Optimizer wrote it: it alone records no stage. */
  public boolean isBf16Optimizer() {
    return stateDict().find(ZERO_STAGE).isEmpty();
  }

  /** ZeRO stage, or 1 for BF16_Optimizer. */
  public int stage() {
    Optional<PickledValue> stage = stateDict().find(ZERO_STAGE);
    return stage.isEmpty() ? 1 : ZeroStage.of(stage.get());
  }
}
