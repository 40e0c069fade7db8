package io.github.reshard.checkpoint.parallel;

import java.io.Serializable;
import java.util.Collections;
import java.util.List;
import java.util.OptionalInt;

/** Into which widths a run cuts a dimension among its tensor-parallel ranks. */
public sealed interface Division extends Serializable {
  /**
   * How wide the part of each rank is at another number of ranks, in elements; their sum is {@code
   * size}, and none is 0.
   *
   * @param parameter its name
   * @param size the whole dimension, in elements
   * @param ranks how many tensor-parallel ranks there will be
   * @param saved how wide the parts of the source's ranks are
   * @throws Unfit if that cannot be told, or what was saved was not cut like this
   */
  List<Long> at(String parameter, long size, int ranks, List<Long> saved) throws Unfit;

  /** Into equal parts only, as Megatron-LM does ({@code core/utils.py}, {@code divide}). */
  record Even() implements Division {
    @Override
    public List<Long> at(String parameter, long size, int ranks, List<Long> saved) throws Unfit {
      if (saved.stream().distinct().count() > 1) {
        throw new Unfit(
            "its parts are %s wide, and only AutoTP cuts unevenly, which the configuration does not name"
                .formatted(saved));
      }
      if (size % ranks != 0) {
        throw new Unfit("%d is not a multiple of %d ranks".formatted(size, ranks));
      }
      return Collections.nCopies(ranks, size / ranks);
    }
  }

  /**
   * As AutoTP does, see {@link ShardWidths}.
   *
   * @param heads the key-value heads of the model
   * @param grain {@code tp_grain_size}
   */
  record AutoTp(Heads heads, int grain) implements Division {
    @Override
    public List<Long> at(String parameter, long size, int ranks, List<Long> saved) throws Unfit {
      String layer = parameter.replaceFirst("\\.(weight|bias)$", "");
      List<Long> widths;
      if (!heads.areKnown() && ShardWidths.maybeCutByHead(layer)) {
        widths = withoutHeads(size, ranks, saved);
      } else {
        OptionalInt count = heads.count();
        List<Long> expected = ShardWidths.of(size, saved.size(), count, layer, grain);
        if (!expected.equals(saved)) {
          throw new Unfit(
              "AutoTP would have cut %d among %d ranks%s as %s, and it was cut as %s. Is --kvHeads right?"
                  .formatted(size, saved.size(), heads.said(), expected, saved));
        }
        widths = ShardWidths.of(size, ranks, count, layer, grain);
      }
      if (widths.contains(0L)) {
        throw new Unfit(
            "%d among %d ranks%s leaves ranks without any: choose a smaller --targetTensorParallelSize"
                .formatted(size, ranks, heads.said()));
      }
      return widths;
    }

    /**
     * Where the source's ranks have equal parts, whatever the heads are, their number is a multiple
     * of those ranks, and so of any number that divides them.
     */
    private List<Long> withoutHeads(long size, int ranks, List<Long> saved) throws Unfit {
      boolean even = saved.stream().distinct().count() == 1 && grain == 1;
      if (!even || saved.size() % ranks != 0) {
        throw new Unfit(
            "AutoTP cuts attention between key-value heads, and the checkpoint does not say how"
                + " many the model has. Put its config.json beside the tag, or give --kvHeads=N (0"
                + " if the model has no configuration that says it)");
      }
      return Collections.nCopies(ranks, size / ranks);
    }
  }

  /**
   * The key-value heads of a model.
   *
   * @param areKnown whether it is known how many there are, or that the model says none
   * @param number how many; 0 if the model says none, or it is not known
   */
  record Heads(boolean areKnown, int number) implements Serializable {
    /** Nothing says it. */
    public static final Heads UNKNOWN = new Heads(false, 0);

    /**
     * What a user says.
     *
     * @param number 0 if the model says none
     */
    public static Heads of(int number) {
      return new Heads(true, number);
    }

    OptionalInt count() {
      return number == 0 ? OptionalInt.empty() : OptionalInt.of(number);
    }

    String said() {
      return number > 0
          ? " with %d key-value heads".formatted(number)
          : areKnown ? " without key-value heads" : "";
    }
  }
}
