package io.github.reshard.transforms;

import java.io.Serializable;

/**
 * What the commit step has to know of how a job was asked for.
 *
 * @param trustMasters whether the job goes on when master weights do not give the module's weights
 * @param form what the output is made as, {@link #AS_SAVED} or whatever was asked for in words
 * @param startMillis when it began, in milliseconds since 1970
 * @param run what this reshard is called, and no other; empty if nobody has to know its output
 * @param counted whether it has counters of its own
 */
public record JobConfig(
    boolean trustMasters, String form, long startMillis, String run, boolean counted)
    implements Serializable {
  /** The output is of the format and the ZeRO stage of the source. */
  public static final String AS_SAVED = "as saved";

  /** Of a reshard without a name. */
  public JobConfig(boolean trustMasters, String form, long startMillis) {
    this(trustMasters, form, startMillis, "", true);
  }
}
