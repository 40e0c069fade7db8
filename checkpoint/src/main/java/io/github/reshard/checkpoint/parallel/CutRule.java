package io.github.reshard.checkpoint.parallel;

import java.util.OptionalLong;

/** How tensor-parallel ranks share a parameter, whatever their number. */
public sealed interface CutRule {
  /** Each rank has all of it, and all have the same. */
  record Replicated() implements CutRule {}

  /**
   * Each rank has all of it. DeepSpeed takes the mean of the ranks (checkpoint/ds_to_universal.py,
   * {@code parameter_to_average_patterns}), which is the value itself where all have the same.
   */
  record Averaged() implements CutRule {}

  /**
   * Each rank has a part of it.
   *
   * @param dimension the dimension that is cut
   * @param fused what lies end to end in it along that dimension
   */
  record Split(int dimension, Fused fused) implements CutRule {}

  /**
   * A vocabulary: each rank has some of its rows. There may be rows behind its end, so that all
   * ranks have equally many; these are nobody's.
   *
   * @param rows how many rows it has; empty if that is not said, and none are behind the end
   */
  record Vocabulary(OptionalLong rows) implements CutRule {}
}
