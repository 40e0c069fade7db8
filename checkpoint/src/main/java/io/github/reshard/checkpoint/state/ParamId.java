package io.github.reshard.checkpoint.state;

import java.io.Serializable;

/**
 * What a parameter is called in the whole job. Names alone do not identify: tensor- and
 * pipeline-parallel ranks, and the expert-parallel ranks of a mixture of experts, use the same
 * names for different tensors.
 *
 * @param checkpoint the checkpoint it belongs to, as {@code input/tag}
 * @param mpRank the model-parallel rank, {@code MM} in {@code mp_rank_MM}
 * @param expertRank the expert-parallel rank, or {@link #NO_EXPERT}
 * @param name the name in the optimizer's files
 */
public record ParamId(String checkpoint, int mpRank, int expertRank, String name)
    implements Serializable {
  /** The {@code expertRank} of a parameter that is no expert's. */
  public static final int NO_EXPERT = -1;

  @Override
  public String toString() {
    return name
        + " (mp rank "
        + mpRank
        + (expertRank == NO_EXPERT ? "" : ", expert-parallel rank " + expertRank)
        + ")";
  }
}
