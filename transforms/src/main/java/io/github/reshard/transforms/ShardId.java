package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.List;

/**
 * A shard of the source.
 *
 * @param model index of the partitioned model in the plan
 * @param rank the data-parallel rank, or {@link RankSlice#WHOLE} for the model's own files
 */
public record ShardId(int model, int rank) implements Serializable {

  /** All shards of the source of {@code plan}. */
  public static List<ShardId> allOf(ReshardPlan plan) {
    List<ShardId> shards = new ArrayList<>();
    for (int m = 0; m < plan.models().size(); m++) {
      shards.add(new ShardId(m, RankSlice.WHOLE));
      for (int rank = 0; rank < plan.models().get(m).source().worldSize(); rank++) {
        shards.add(new ShardId(m, rank));
      }
    }
    return shards;
  }
}
