package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.zero12.OptimizerStates;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** That the shards of all ranks are there. */
final class ShardRanks {
  private ShardRanks() {}

  /**
   * How many ranks saved the shards, which is what the largest {@code partition_count} says: only
   * groups of experts have a smaller one.
   *
   * @throws RefusedException if a shard of one of them is missing or there are others beside them
   */
  static int worldSize(UserShards user, SortedMap<Integer, OptimizerStates> shards) {
    Map<Integer, Integer> sizes = new LinkedHashMap<>();
    shards.forEach(
        (rank, states) ->
            sizes.put(
                rank,
                Math.toIntExact(
                    Math.min(
                        Integer.MAX_VALUE,
                        states.partitionCounts().stream().mapToLong(n -> n).max().orElse(0)))));
    int first = shards.firstKey();
    int size = sizes.get(first);
    sizes.forEach(
        (rank, other) -> {
          if (other != size) {
            throw new RefusedException(
                user.shards().get(rank).path(),
                "is one of %d shards (partition_count), %s is one of %d. They are of different runs."
                    .formatted(other, user.shards().get(first).name(), size));
          }
        });
    if (size < 1) {
      throw new RefusedException(
          user.shards().get(first).path(), "has no param groups, so there is nothing to reshard.");
    }
    requireRanks(user, size, "partition_count");
    return size;
  }

  /**
   * Checks that there is one shard for each rank.
   *
   * @param saysSo what in the shards says how many they are
   * @throws RefusedException if not
   */
  static void requireRanks(UserShards user, int size, String saysSo) {
    List<Integer> missing =
        IntStream.range(0, size).filter(r -> !user.shards().containsKey(r)).boxed().toList();
    SortedMap<Integer, FileStat> foreign = user.shards().tailMap(size);
    if (missing.isEmpty() && foreign.isEmpty()) {
      return;
    }
    StringBuilder problem =
        new StringBuilder(
            "%d ranks saved these shards (%s is %d), and %d %s here."
                .formatted(
                    size,
                    saysSo,
                    size,
                    user.shards().size(),
                    user.shards().size() == 1 ? "is" : "are"));
    if (!missing.isEmpty()) {
      problem
          .append(" Missing: ")
          .append(missing.stream().limit(8).map(user::nameOf).collect(Collectors.joining(", ")))
          .append(missing.size() > 8 ? " and %d more.".formatted(missing.size() - 8) : ".");
    }
    if (!foreign.isEmpty()) {
      problem
          .append(" Not of these ranks: ")
          .append(foreign.values().stream().map(FileStat::name).collect(Collectors.joining(", ")))
          .append(".");
    }
    problem.append(
        missing.isEmpty()
            ? " Keep the shards of one run."
            : " Every shard holds a part that is in no other, so all %d are needed, however many ranks go on with them."
                .formatted(size));
    throw new RefusedException(user.directory() + "/" + user.pattern(), problem.toString());
  }
}
