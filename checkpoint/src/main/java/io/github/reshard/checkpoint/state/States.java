package io.github.reshard.checkpoint.state;

/** The names of states that are not keys of the optimizer's own state. */
public final class States {
  /** The master weights, {@code single_partition_of_fp32_groups} or {@code fp32_flat_groups}. */
  public static final String MASTER = "fp32";

  /** The weights as the module computes with them. */
  public static final String MODULE = "module";

  /** The pieces of a parameter that is not trained, {@code frozen_param_fragments} of ZeRO-3. */
  public static final String FROZEN = "frozen";

  private States() {}
}
