package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.zero12.FlatOutput;
import java.io.IOException;

/** Writes what was read of a checkpoint as something else than the files of a ZeRO stage. */
public interface OtherWriter extends FlatOutput {
  /**
   * A model-parallel rank of ZeRO-3, whose partitions are noted in the plan's models. The target's
   * layouts are those of one rank, with a bucket for each parameter.
   *
   * @param subGroupSize {@code sub_group_size} of the run
   */
  void addSharded(StagePlanner.Sharded from, long subGroupSize) throws IOException;
}
