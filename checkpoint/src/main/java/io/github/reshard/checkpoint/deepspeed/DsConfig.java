package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.Arrays;
import java.util.Optional;
import java.util.Set;

/**
 * The DeepSpeed configuration that a file carries, as far as it decides what a run at another stage
 * would have saved.
 *
 * @param value the dict
 */
public record DsConfig(PickledValue value) {
  public static final long DEFAULT_SUB_GROUP_SIZE = 1_000_000_000;

  private static final String KEY = "ds_config";
  private static final String ZERO = "zero_optimization";
  private static final String STAGE = "stage";
  private static final String DEVICE = "device";
  public static final String NVME = "nvme";

  /** What {@code DtypeEnum} takes for fp32 (runtime/config.py). */
  private static final Set<String> FLOAT = Set.of("torch.float32", "fp32", "float32", "float");

  private static final String TENSOR = "tensor_parallel";
  private static final String TENSOR_SIZE = "autotp_size";

  /** {@code GRADIENT_CLIPPING_DEFAULT} (runtime/constants.py). */
  private static final double DEFAULT_CLIPPING = 1.0;

  /**
   * The configuration in {@code root}, which may be a model or an optimizer file.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if there is only the path of a file
   */
  public static DsConfig of(PickledValue root) {
    Optional<PickledValue> found = root.findPresent(KEY);
    if (found.filter(PickledValue::isDict).isEmpty()) {
      throw root.refused(
          "ds_config is not stored, only the path of its file, so the stage in it cannot be"
              + " changed. Save the checkpoint once from a run whose config is given as a dict, or"
              + " leave --targetStage out.");
    }
    return new DsConfig(found.get());
  }

  /**
   * The configuration in the first of {@code roots} that has it; none if only the path of its file
   * is stored, or nothing: the engine stores what {@code initialize} was given. Mixtures of experts
   * before DeepSpeed 0.19.3 have it in their optimizer files only.
   */
  public static Optional<DsConfig> ifStored(PickledValue... roots) {
    return Arrays.stream(roots)
        .flatMap(root -> root.findPresent(KEY).filter(PickledValue::isDict).stream())
        .findFirst()
        .map(DsConfig::new);
  }

  /**
   * Checks that nothing in it makes files that hold something else than this program reads.
   *
   * @param stage the ZeRO stage that saved it
   * @throws io.github.reshard.checkpoint.RefusedException if something does
   */
  public void requireSupported(int stage) {
    zero("offload_optimizer", "super_offload")
        .filter(PickledValue::isTrue)
        .ifPresent(
            set -> {
              throw set.refused("checkpoints of SuperOffload are not supported.");
            });
    zero("zenflow")
        .ifPresent(
            set -> {
              throw set.refused("checkpoints of ZenFlow are not supported.");
            });
    if (device("offload_optimizer").equals(NVME)) {
      throw zero("offload_optimizer", DEVICE)
          .orElseThrow()
          .refused(
              "the optimizer is offloaded to NVMe, whose files are not read: load the checkpoint"
                  + " once with offload_optimizer on cpu or without, and save it again.");
    }
    if (stage == 3) {
      positive("mics_shard_size")
          .ifPresent(
              size -> {
                throw size.refused(
                    "this is a checkpoint of MiCS, which is not supported: only one shard group"
                        + " writes its files. Load it at its own size without mics_shard_size and"
                        + " save it again.");
              });
    }
  }

  /** The value of a number that is set and not 0. */
  public Optional<PickledValue> positive(String key) {
    return zero(key).filter(number -> number.asWhole().orElse(0L) > 0);
  }

  /** Where {@code offload_optimizer} or {@code offload_param} puts what it offloads. */
  public String device(String offload) {
    return zero(offload, DEVICE).map(PickledValue::asString).orElse("none");
  }

  /** Whether the optimizer is Muon. */
  public boolean usesMuon() {
    return optimizerType().filter(type -> type.equalsIgnoreCase("muon")).isPresent();
  }

  /** The name of the optimizer that it asks for, if it does. */
  public Optional<String> optimizerType() {
    return find("optimizer", "type")
        .filter(type -> type.node() instanceof PyStr)
        .map(PickledValue::asString);
  }

  /** {@code use_data_before_expert_parallelism}: ranks are ordered by data before experts. */
  public boolean dataBeforeExperts() {
    return find("use_data_before_expert_parallelism").map(PickledValue::isTrue).orElse(false);
  }

  private Optional<PickledValue> find(String... path) {
    Optional<PickledValue> found = Optional.of(value);
    for (String key : path) {
      found = found.filter(PickledValue::isDict).flatMap(dict -> dict.findPresent(key));
    }
    return found;
  }

  /** What {@code zero_optimization} says. */
  public Optional<PickledValue> zero(String... path) {
    Optional<PickledValue> found = find(ZERO);
    for (String key : path) {
      found = found.filter(PickledValue::isDict).flatMap(dict -> dict.findPresent(key));
    }
    return found;
  }

  /**
   * Writes the stage into the dict.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if it has none
   */
  public void setStage(int stage) {
    PickledValue zero = value.get(ZERO);
    PyEntries entries = zero.entries();
    if (!entries.contains(STAGE)) {
      throw zero.refused("expected the key 'stage', whose value --targetStage changes.");
    }
    entries.replace(STAGE, PyInt.of(stage));
  }

  /**
   * Whether the optimizer's class at {@code stage} is BF16_Optimizer (runtime/engine.py, {@code
   * _do_optimizer_sanity_check}).
   */
  public boolean makesBf16Optimizer(int stage) {
    boolean bf16 =
        find("bf16", "enabled").or(() -> find("bfloat16", "enabled")).stream()
            .anyMatch(PickledValue::isTrue);
    boolean floatGradients =
        find("data_types", "grad_accum_dtype")
            .map(PickledValue::node)
            .filter(type -> type instanceof PyStr text && FLOAT.contains(text.value()))
            .isPresent();
    boolean offloaded = device("offload_optimizer").equals("cpu");
    return stage == 1 && bf16 && floatGradients && !offloaded;
  }

  /** {@code autotp_size}, if AutoTP cuts the model. */
  public Optional<Integer> tensorParallelSize() {
    return find(TENSOR, TENSOR_SIZE).map(PickledValue::asInt).filter(size -> size > 0);
  }

  /** {@code tp_grain_size} (DeepSpeed 0.19.8, runtime/tensor_parallel/config.py). */
  public int tensorGrain() {
    return find(TENSOR, "tp", "tp_grain_size")
        .or(() -> find(TENSOR, TENSOR, "tp_grain_size"))
        .map(PickledValue::asInt)
        .orElse(1);
  }

  /** Writes {@code autotp_size} where there is one. */
  void setTensorParallelSize(int ranks) {
    find(TENSOR)
        .filter(PickledValue::isDict)
        .filter(tensor -> tensor.entries().contains(TENSOR_SIZE))
        .ifPresent(tensor -> tensor.entries().replace(TENSOR_SIZE, PyInt.of(ranks)));
  }

  /** Whether the model computes in bfloat16. */
  public boolean usesBf16() {
    return find("bf16", "enabled").or(() -> find("bfloat16", "enabled")).stream()
        .anyMatch(PickledValue::isTrue);
  }

  /** {@code parameter_alignment} (DeepSpeed 0.19.7 and later). */
  public boolean alignsParameters() {
    return zero("parameter_alignment").map(PickledValue::isTrue).orElse(false);
  }

  /** {@code round_robin_gradients}. */
  public boolean roundRobin() {
    return zero("round_robin_gradients").map(PickledValue::isTrue).orElse(false);
  }

  /** Whether the optimizer's state is kept in the host's memory or on NVMe. */
  public boolean offloadsOptimizer() {
    return zero("cpu_offload").map(PickledValue::isTrue).orElse(false)
        || zero("offload_optimizer", "device")
            .filter(device -> !device.asString().equals("none"))
            .isPresent();
  }

  /** {@code clip_grad} of an optimizer that is made with this configuration. */
  public PyObject gradientClipping() {
    return find("gradient_clipping")
        .map(PickledValue::node)
        .orElseGet(() -> new PyFloat(DEFAULT_CLIPPING));
  }

  /** {@code sub_group_size} of ZeRO-3. */
  public long subGroupSize() {
    Optional<PickledValue> configured = zero("sub_group_size");
    if (configured.isEmpty()) {
      return DEFAULT_SUB_GROUP_SIZE;
    }
    return configured
        .get()
        .asWhole()
        .orElseThrow(
            () ->
                configured
                    .get()
                    .refused(
                        "expected a number of elements, found " + configured.get().describe()));
  }
}
