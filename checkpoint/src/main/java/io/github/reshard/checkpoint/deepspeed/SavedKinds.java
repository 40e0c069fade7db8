package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.torch.PickledValue;

/** Kinds of checkpoints that are not read at any ZeRO stage. */
public final class SavedKinds {
  private SavedKinds() {}

  /**
   * A run with AutoEP lists its layers in {@code ds_autoep_layers} of every model file, which is
   * None in all others (docs/zero3-and-moe-format.md has the key), whatever its stage.
   *
   * @param model a model file
   * @param optimizer the {@code state_dict()} of an optimizer file beside it
   * @throws RefusedException if it is of AutoEP, or its optimizer is partly on NVMe
   */
  public static void requireSupported(
      DeepSpeedReading reading, ModelStates model, PickledValue optimizer) {
    if (optimizer.find("ds_zero_partition_groups").isPresent()
        || model.root().findPresent("ds_autoep_layers").isPresent()) {
      throw new RefusedException(
          model.root().file(),
          "this is a checkpoint of AutoEP experts, which is not supported. Save it from a run"
              + " without expert parallelism.");
    }
    if (reading.files().others().stream().anyMatch(o -> o.path().contains("/offloaded_tensors/"))) {
      throw new RefusedException(
          reading.where(),
          "has the directory offloaded_tensors: the optimizer is offloaded to NVMe, whose files are"
              + " not read. Load the checkpoint once with offload_optimizer on cpu or without, and"
              + " save it again.");
    }
  }
}
