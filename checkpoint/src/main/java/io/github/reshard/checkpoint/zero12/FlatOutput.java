package io.github.reshard.checkpoint.zero12;

import java.io.IOException;

/** Writes what was read of ZeRO-1 or 2 as something else. */
public interface FlatOutput {
  /**
   * A model-parallel rank.
   *
   * @param reader read it
   */
  void addFlat(int mpRank, FlatPlanner reader, SavedFlat from) throws IOException;
}
