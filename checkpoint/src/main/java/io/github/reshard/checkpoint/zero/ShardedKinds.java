package io.github.reshard.checkpoint.zero;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.Optional;

/** The variants of ZeRO-3 whose files hold something else, refused by name. */
final class ShardedKinds {
  private ShardedKinds() {}

  static void requireSupported(PlanBuilder plan, ModelStates model, ShardedStates optimizer) {
    if (optimizer.stage() != 3) {
      throw new RefusedException(
          optimizer.root().file(),
          "zero_stage is %d beside model files of ZeRO-3.".formatted(optimizer.stage()));
    }
    if (optimizer.stateDict().find("ds_zero_partition_groups").isPresent()
        || model.root().findPresent("ds_autoep_layers").isPresent()) {
      throw new RefusedException(
          model.root().file(),
          "this is a checkpoint of AutoEP experts, which is not supported. Save it from a run without expert parallelism.");
    }
    positive(model, "mics_shard_size")
        .ifPresent(
            size -> {
              throw size.refused(
                  "this is a checkpoint of MiCS, which is not supported: only one shard group writes its files. Load it at its own size without mics_shard_size and save it again.");
            });
    if (device(model, "offload_optimizer").equals("nvme")) {
      throw model
          .zeroConfig("offload_optimizer", "device")
          .orElseThrow()
          .refused(
              "the optimizer is offloaded to NVMe, whose files are not read: load the checkpoint once with offload_optimizer on cpu or without, and save it again.");
    }
    if (plan.files.others().stream().anyMatch(o -> o.path().contains("/offloaded_tensors/"))) {
      throw new RefusedException(
          plan.where(),
          "has the directory offloaded_tensors: the optimizer is offloaded to NVMe, whose files are not read. Load the checkpoint once with offload_optimizer on cpu or without, and save it again.");
    }
    if (device(model, "offload_param").equals("nvme") && !model.frozen().isEmpty()) {
      throw model
          .zeroConfig("offload_param", "device")
          .orElseThrow()
          .refused(
              "parameters are offloaded to NVMe and some are frozen, so their pieces in the model files may be stale. Load the checkpoint once with offload_param on cpu and save it again.");
    }
    model
        .zeroConfig("offload_optimizer", "super_offload")
        .filter(PickledValue::isTrue)
        .ifPresent(
            value -> {
              throw value.refused("checkpoints of SuperOffload are not supported.");
            });
    model
        .zeroConfig("zenflow")
        .ifPresent(
            value -> {
              throw value.refused("checkpoints of ZenFlow are not supported.");
            });
    positive(model, "zero_hpz_partition_size")
        .flatMap(PickledValue::asWhole)
        .filter(size -> plan.targetWorldSize % size != 0)
        .ifPresent(
            size ->
                plan.notes.add(
                    "zero_hpz_partition_size is %d, which does not divide %d ranks; DeepSpeed will not start with it"
                        .formatted(size, plan.targetWorldSize)));
  }

  private static Optional<PickledValue> positive(ModelStates model, String key) {
    return model.zeroConfig(key).filter(value -> value.asWhole().orElse(0L) > 0);
  }

  private static String device(ModelStates model, String offload) {
    return model.zeroConfig(offload, "device").map(PickledValue::asString).orElse("none");
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
