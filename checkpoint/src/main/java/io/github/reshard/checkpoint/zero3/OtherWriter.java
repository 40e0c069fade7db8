package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.zero12.FlatPlanner;
import java.io.IOException;

/** Writes what was read of a checkpoint as something else than the files of a ZeRO stage. */
public interface OtherWriter {
  /**
   * A model-parallel rank of ZeRO-1 or 2.
   *
   * @param reader read it
   */
  void addFlat(int mpRank, FlatPlanner reader, StagePlanner.Flat from) throws IOException;

  /**
   * A model-parallel rank of ZeRO-3, whose partitions are noted in the plan's models. The target's
   * layouts are those of one rank, with a bucket for each parameter.
   *
   * @param subGroupSize {@code sub_group_size} of the run
   */
  void addSharded(StagePlanner.Sharded from, long subGroupSize) throws IOException;
}
