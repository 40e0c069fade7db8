package io.github.reshard.transforms;

import java.io.Serializable;

/**
 * A shard of the source.
 *
 * @param model index of the partitioned model in the plan
 * @param rank the data-parallel rank, or {@link io.github.reshard.checkpoint.plan.RankSlice#WHOLE}
 *     for the model's own files
 */
public record ShardId(int model, int rank) implements Serializable {}
