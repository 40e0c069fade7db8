package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.SavedKinds;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;

/** The variants of ZeRO-3 whose files hold something else, refused by name. */
final class ShardedKinds {
  private ShardedKinds() {}

  static void requireSupported(
      DeepSpeedReading reading, ModelStates model, ShardedStates optimizer) {
    if (optimizer.stage() != 3) {
      throw new RefusedException(
          optimizer.root().file(),
          "zero_stage is %d beside model files of ZeRO-3.".formatted(optimizer.stage()));
    }
    SavedKinds.requireSupported(reading, model, optimizer.stateDict());
    DsConfig.ifStored(model.root()).ifPresent(config -> requireSupported(reading, model, config));
  }

  private static void requireSupported(
      DeepSpeedReading reading, ModelStates model, DsConfig config) {
    config.requireSupported(3);
    if (config.device("offload_param").equals(DsConfig.NVME) && !model.frozen().isEmpty()) {
      throw config
          .zero("offload_param")
          .orElseThrow()
          .refused(
              "parameters are offloaded to NVMe and some are frozen, so their pieces in the model"
                  + " files may be stale. Load the checkpoint once with offload_param on cpu and"
                  + " save it again.");
    }
    config
        .positive("zero_hpz_partition_size")
        .flatMap(PickledValue::asWhole)
        .filter(size -> reading.targetWorldSize() % size != 0)
        .ifPresent(
            size ->
                reading.note(
                    "zero_hpz_partition_size is %d, which does not divide %d ranks; DeepSpeed will not start with it"
                        .formatted(size, reading.targetWorldSize())));
  }

  /**
   * @param placeholder what stands for the parameter in the module, or null
   */
  static void requireNotQuantized(PickledValue fragment, TensorNode placeholder) {
    boolean scaled =
        ShardedStates.attributes(fragment.node())
            .map(PyDict::entries)
            .filter(attributes -> attributes.contains("ds_quant_scale"))
            .isPresent();
    if (scaled || (placeholder != null && fragment.tensor().dtype() != placeholder.dtype())) {
      throw fragment.refused(
          "the frozen parameter is quantized (%s), in blocks that depend on the piece, which cannot be resharded. Save the checkpoint from a run without zero_quantized_nontrainable_weights and quantized_initialization."
              .formatted(fragment.tensor().dtype()));
    }
  }
}
