package io.github.reshard.checkpoint.openstate;

import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.zero12.OptimizerStates;
import java.util.Set;

/** The names in an open training state. docs/open-state.md says what they mean. */
public final class OpenFormat {
  /** What a reader knows. */
  public static final int VERSION = 1;

  /** What is no tensor. */
  public static final String JSON = "optimizer.json";

  /** What the names of files of states begin with. */
  public static final String OPTIMIZER_STEM = "optimizer";

  /** What the names of files of weights begin with. */
  static final String MODEL_STEM = "model";

  public static final String VERSION_KEY = "version";
  public static final String PARAM_GROUPS = "param_groups";
  public static final String PARAMETERS = "parameters";
  public static final String OF_DEEPSPEED = "deepspeed";
  public static final String GROUP = "group";
  public static final String STATES = "states";
  static final String OPTIONS = "options";
  static final String STEP = "step";

  static final String TAG = "tag";
  static final String STAGE = "zero_stage";
  static final String ORDER = "order";
  static final String MODULE = "module";
  static final String MODULE_STATE = "module_state";
  static final String NAME = "name";
  static final String SAME_AS = "same_as";
  static final String TENSOR = "tensor";
  static final String DTYPE = "dtype";
  static final String FROZEN = "frozen";
  static final String MODEL = "model";
  static final String OPTIMIZER = "optimizer";
  static final String GROUPS = "groups";
  static final String TUPLES = "tuples";
  static final String STATE = "state";
  static final String STEP_OPTION = "step_option";
  static final String LEFT_OUT = "left_out";

  /** A tensor of one element: its type, its shape, its bytes in hexadecimal digits. */
  static final String SCALAR = "!tensor";

  /** Keys of a model file that are made anew. */
  static final Set<String> NOT_OF_MODEL =
      Set.of(
          "module",
          ModelStates.PARAM_SHAPES,
          ModelStates.FROZEN_SHAPES,
          ModelStates.FROZEN_FRAGMENTS,
          ModelStates.DP_WORLD_SIZE);

  /**
   * What a run that goes on needs of a model file (DeepSpeed 0.9.5 to 0.19.8, runtime/engine.py,
   * {@code _common_checkpoint_state}); all else is what the user handed to {@code save_checkpoint}.
   */
  static final Set<String> NEEDED_OF_MODEL =
      Set.of(
          "buffer_names",
          "optimizer",
          "lr_scheduler",
          "data_sampler",
          "random_ltd",
          "sparse_tensor_module_names",
          "csr_tensor_module_names",
          "skipped_steps",
          "global_steps",
          "global_samples",
          "mp_world_size",
          "ds_config",
          "ds_version",
          ModelStates.SHARED_PARAMS);

  /** Keys of an optimizer's {@code state_dict()} that are made anew. */
  static final Set<String> NOT_OF_OPTIMIZER =
      Set.of(
          "base_optimizer_state",
          "single_partition_of_fp32_groups",
          "param_alignment_paddings",
          OptimizerStates.GROUP_PADDINGS,
          OptimizerStates.PARAM_SLICE_MAPPINGS,
          OptimizerFile.FLAT_GROUPS,
          OptimizerFile.PARTITION_COUNT,
          OptimizerFile.ZERO_STAGE,
          OptimizerFile.WRAPPER);

  private OpenFormat() {}
}
