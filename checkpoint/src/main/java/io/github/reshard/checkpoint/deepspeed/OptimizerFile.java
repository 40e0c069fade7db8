package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.pickle.DictBuilder;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyObject;
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

  public static final String ZERO_STAGE = "zero_stage";
  public static final String LOSS = "loss_scaler";
  public static final String DYNAMIC = "dynamic_loss_scale";
  public static final String OVERFLOW = "overflow";
  public static final String VERSION = "ds_version";

  private static final PyGlobal LOSS_SCALER =
      new PyGlobal("deepspeed.runtime.fp16.loss_scaler", "LossScaler");

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

  /** {@code stage} as the run that saved the file would write it. */
  public PyObject stageNode(int stage) {
    return ZeroStage.written(stage, stateDict().find(ZERO_STAGE).map(PickledValue::node));
  }

  /**
   * Adds the loss scaling, which a run has that is not of BF16_Optimizer; of a run without it, as
   * {@code CreateLossScaler} makes it (DeepSpeed 0.19.6, runtime/fp16/loss_scaler.py).
   */
  public DictBuilder takeScaling(DictBuilder into) {
    PyDict scaler =
        new DictBuilder().put("cur_scale", new PyFloat(1)).put("dynamic", PyBool.FALSE).dict();
    PyEntries saved = stateDict().entries();
    return into.take(saved, LOSS, PyInstance.newObject(LOSS_SCALER, scaler))
        .take(saved, DYNAMIC, PyBool.FALSE)
        .take(saved, OVERFLOW, PyBool.FALSE);
  }
}
