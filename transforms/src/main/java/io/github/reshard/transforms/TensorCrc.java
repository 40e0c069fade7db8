package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCrc;
import java.io.Serializable;

/**
 * The checksum of a run of bytes of a full tensor.
 *
 * @param parameter the number of its parameter in the plan, see {@link PlanIndex.Place}
 * @param state its state
 * @param crc the run; its offset counts from the full tensor's beginning
 * @param mismatch the first element of a slice of it whose master weight does not give the module's
 *     weight, where that is trusted all the same, or {@link #NONE}
 */
record TensorCrc(int parameter, String state, SliceCrc crc, long mismatch) implements Serializable {
  /** There is no such element. */
  static final long NONE = -1;
}
