package io.github.reshard.checkpoint.zero12;

import java.io.Serializable;
import java.util.List;
import java.util.stream.IntStream;

/**
 * How the run that saved a checkpoint of ZeRO-1 or 2 padded its flat groups, and recorded that.
 *
 * @param wholeOnLastRank whether {@code DeepSpeedZeroOptimizer} records the whole padding of a
 *     group on the last rank and none on the others, as it did before DeepSpeed 0.16.4, also where
 *     the padding is more than that rank's partition. From 0.16.4 on each rank records its own
 *     (runtime/zero/stage_1_and_2.py, "Record padding required for alignment").
 * @param alignments for each group, to a multiple of how many elements its parameters begin: more
 *     than 1 with {@code zero_optimization.parameter_alignment} of DeepSpeed 0.19.7 and later.
 *     Empty if all are 1.
 */
public record Paddings(boolean wholeOnLastRank, List<Integer> alignments) implements Serializable {
  /** What DeepSpeed 0.16.4 and later do unless told otherwise. */
  public static final Paddings USUAL = new Paddings(false, List.of());

  public Paddings {
    alignments = alignments.stream().allMatch(a -> a == 1) ? List.of() : List.copyOf(alignments);
  }

  /** The alignment of the parameters of {@code group}, in elements. */
  public int alignment(int group) {
    return alignments.isEmpty() ? 1 : alignments.get(group);
  }

  /** The same for some of the groups. */
  public Paddings of(List<Integer> groups) {
    return new Paddings(wholeOnLastRank, groups.stream().map(this::alignment).toList());
  }

  /** The same record of padding, with {@code alignment} for each of {@code groups} groups. */
  public Paddings aligned(int groups, int alignment) {
    return new Paddings(
        wholeOnLastRank, IntStream.range(0, groups).mapToObj(g -> alignment).toList());
  }
}
