package io.github.reshard.checkpoint.state;

import java.io.Serializable;

/**
 * What a parameter is called in the whole job. Names alone do not identify: model-parallel ranks
 * use the same names for different tensors. Experts are named by their global numbers, whatever
 * rank has them.
 *
 * @param checkpoint the checkpoint it belongs to, as {@code input/tag}
 * @param mpRank the model-parallel rank, {@code MM} in {@code mp_rank_MM}, or {@link #ALL_RANKS}
 * @param name the name in the module
 */
public record ParamId(String checkpoint, int mpRank, String name) implements Serializable {
  /** The {@code mpRank} of parameters that several ranks had, and that are joined for none. */
  public static final int ALL_RANKS = -1;

  /** The {@code expertRank} of parameters that are no experts'. */
  public static final int NO_EXPERT = -1;

  /** The {@code expertRank} of the experts of all ranks together, by their global names. */
  public static final int ALL_EXPERTS = -2;

  @Override
  public String toString() {
    return name + (mpRank == ALL_RANKS ? " (all mp ranks)" : " (mp rank " + mpRank + ")");
  }
}
