package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.List;

/**
 * Something that a plan lists and a graph begins with.
 *
 * @param kind what it is
 * @param model index of the partitioned model in the plan; 0 for files
 * @param number a data-parallel rank, {@link RankSlice#WHOLE} for what is no rank's, or the index
 *     of a file
 */
public record PlanItem(Kind kind, int model, int number) implements Serializable {
  /** What it may be. */
  public enum Kind {
    /** What a rank of the source holds, or the model's own files. */
    SOURCE_SHARD,
    /** What a rank of the target gets beside parameters, or what is carried over for all. */
    TARGET_SHARD,
    /** A file that is read. */
    SOURCE_FILE,
    /** A file that is written. */
    TARGET_FILE
  }

  /** All of {@code plan}. */
  public static List<PlanItem> allOf(ReshardPlan plan) {
    List<PlanItem> items = new ArrayList<>();
    for (int m = 0; m < plan.models().size(); m++) {
      items.add(new PlanItem(Kind.SOURCE_SHARD, m, RankSlice.WHOLE));
      for (int rank = 0; rank < plan.models().get(m).source().worldSize(); rank++) {
        items.add(new PlanItem(Kind.SOURCE_SHARD, m, rank));
      }
      for (int rank = 0; rank < plan.models().get(m).target().worldSize(); rank++) {
        items.add(new PlanItem(Kind.TARGET_SHARD, m, rank));
      }
    }
    items.add(new PlanItem(Kind.TARGET_SHARD, 0, RankSlice.WHOLE));
    for (int file = 0; file < plan.sources().size(); file++) {
      items.add(new PlanItem(Kind.SOURCE_FILE, 0, file));
    }
    for (int file = 0; file < plan.targets().size(); file++) {
      items.add(new PlanItem(Kind.TARGET_FILE, 0, file));
    }
    return items;
  }
}
