package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.LocalTensor;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.OptionalInt;
import java.util.Set;
import java.util.TreeSet;

/**
 * The rows that Megatron adds behind a vocabulary, so that each tensor-parallel rank has equally
 * many (Megatron-DeepSpeed 4efb479d, megatron/tokenizer/tokenizer.py, {@code
 * _vocab_size_with_padding}): up to the next multiple of {@code make_vocab_size_divisible_by} times
 * the ranks.
 */
final class VocabularyPadding {
  private VocabularyPadding() {}

  /**
   * How many rows there are with those behind the end.
   *
   * @param rows of the vocabulary
   * @param saved how many there are at {@code savedRanks}
   * @param multiple {@code make_vocab_size_divisible_by}, if it is known
   * @throws Unfit if it is not known and matters, or does not give {@code saved}
   */
  static long at(long rows, long saved, int savedRanks, int ranks, OptionalInt multiple)
      throws Unfit {
    if (multiple.isPresent()) {
      long again = padded(rows, (long) multiple.getAsInt() * savedRanks);
      if (again != saved) {
        throw new Unfit(
            "with --vocabularyMultiple=%d its %d rows would be %d at %d ranks, and they are %d"
                .formatted(multiple.getAsInt(), rows, again, savedRanks, saved));
      }
      return padded(rows, (long) multiple.getAsInt() * ranks);
    }
    Set<Long> possible = new TreeSet<>();
    for (long m = 1; m * savedRanks <= saved; m++) {
      if (saved % (m * savedRanks) == 0 && padded(rows, m * savedRanks) == saved) {
        possible.add(padded(rows, m * ranks));
      }
    }
    if (possible.size() != 1) {
      throw new Unfit(
          "its vocabulary has %d rows and is padded to %d at %d ranks; at %d ranks it would be one of %s rows. Give --vocabularyMultiple=N, the run's make_vocab_size_divisible_by (128 unless it was set)"
              .formatted(rows, saved, savedRanks, ranks, possible));
    }
    return possible.iterator().next();
  }

  private static long padded(long rows, long multiple) {
    return Math.multiplyExact(Math.floorDiv(rows + multiple - 1, multiple), multiple);
  }

  /**
   * What each rank has.
   *
   * @param shape of the vocabulary alone
   * @param padded how many rows there are with those behind the end
   */
  static List<LocalTensor> locals(List<Long> shape, long padded, int ranks) {
    long own = padded / ranks;
    List<LocalTensor> locals = new ArrayList<>();
    List<Long> zeros = Collections.nCopies(shape.size(), 0L);
    for (int rank = 0; rank < ranks; rank++) {
      long begin = Math.min(rank * own, shape.get(0));
      long rows = Math.min(own, shape.get(0) - begin);
      List<Long> offsets = new ArrayList<>(zeros);
      offsets.set(0, begin);
      List<LocalTensor.Block> blocks =
          rows == 0
              ? List.of()
              : List.of(new LocalTensor.Block(new Box(offsets, first(shape, rows)), zeros));
      locals.add(new LocalTensor(first(shape, own), blocks));
    }
    return locals;
  }

  private static List<Long> first(List<Long> shape, long rows) {
    List<Long> changed = new ArrayList<>(shape);
    changed.set(0, rows);
    return changed;
  }
}
