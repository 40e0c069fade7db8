package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/**
 * The files of one kind that a run of so many ranks saved. A tag that is saved again on fewer ranks
 * (Accelerate always calls it {@code pytorch_model}, Lightning {@code checkpoint}) keeps the files
 * of the ranks that are no more; DeepSpeed does not look at them.
 */
public final class RanksPresent {
  private static final int MOST_NAMED = 20;

  private RanksPresent() {}

  /**
   * Those files, without what another save left.
   *
   * @param saysSo the file that says how many ranks there are
   * @param what the kind of file, such as "optimizer files"
   * @throws RefusedException if one is missing, or one too many is not proven to be another save's
   */
  public static SortedMap<Integer, FileStat> of(
      DeepSpeedReading reading,
      String saysSo,
      int mpRank,
      String what,
      SortedMap<Integer, FileStat> stats,
      int ranks)
      throws IOException {
    if (ranks < 1) {
      throw new RefusedException(
          reading.where(),
          "%s says dp_world_size %d, expected at least 1.".formatted(saysSo, ranks));
    }
    // A file may claim any number of ranks; a few that are missing say enough.
    List<Integer> missing =
        IntStream.range(0, ranks)
            .filter(r -> !stats.containsKey(r))
            .limit(MOST_NAMED)
            .boxed()
            .toList();
    if (!missing.isEmpty()) {
      String like = stats.isEmpty() ? "" : stats.get(stats.firstKey()).name();
      throw new RefusedException(
          reading.where(),
          "%s says dp_world_size %d, but of mp rank %d the %s of ranks %s are missing%s. If nodes wrote to disks of their own, copy the files of all nodes into one directory, or give all of these: --input='/mnt/node*/ckpt'."
              .formatted(
                  saysSo,
                  ranks,
                  mpRank,
                  what,
                  missing,
                  like.isEmpty()
                      ? ""
                      : " ("
                          + missing.stream()
                              .map(rank -> CheckpointFiles.nameOf(like, rank, mpRank))
                              .collect(Collectors.joining(", "))
                          + ")"));
    }
    SortedMap<Integer, FileStat> leftOver = stats.tailMap(ranks);
    if (leftOver.isEmpty()) {
      return stats;
    }
    List<String> names = new ArrayList<>();
    for (Map.Entry<Integer, FileStat> file : leftOver.entrySet()) {
      requireOfAnotherSave(reading, saysSo, ranks, file.getKey(), file.getValue());
      names.add(file.getValue().name());
    }
    reading.note(
        "left over from an earlier save of this tag on more ranks, as they say themselves, and left"
            + " out: "
            + String.join(", ", names));
    return new TreeMap<>(stats.headMap(ranks));
  }

  private static void requireOfAnotherSave(
      DeepSpeedReading reading, String saysSo, int ranks, int rank, FileStat stat)
      throws IOException {
    PickledValue root = PickledValue.root(stat.path(), reading.read(stat).parse().root());
    OptionalLong own = worldSize(root);
    if (own.isEmpty() || own.getAsLong() <= rank) {
      throw new RefusedException(
          stat.path(),
          "is a file too many: %s says dp_world_size %d, and this file %s. Two checkpoints are mixed here; keep the files of one."
              .formatted(
                  saysSo,
                  ranks,
                  own.isEmpty()
                      ? "does not say of how many ranks it is"
                      : "says it is of " + own.getAsLong()));
    }
  }

  /** How many data-parallel ranks a model or optimizer file says there were. */
  private static OptionalLong worldSize(PickledValue root) {
    if (root.find(ModelStates.DP_WORLD_SIZE).isPresent()) {
      return OptionalLong.of(root.get(ModelStates.DP_WORLD_SIZE).asLong());
    }
    PickledValue optimizer = new OptimizerFile(root).stateDict();
    return optimizer
        .find(OptimizerFile.PARTITION_COUNT)
        .map(
            counts ->
                counts.isList()
                    // Experts are partitioned among fewer ranks than all.
                    ? counts.items().stream().mapToLong(PickledValue::asLong).max()
                    : OptionalLong.of(counts.asLong()))
        .orElse(OptionalLong.empty());
  }
}
