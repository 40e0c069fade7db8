package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.deepspeed.ArchiveNames;
import io.github.reshard.checkpoint.deepspeed.NumberedNames;
import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.zero12.Shard;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.SortedMap;
import java.util.TreeMap;

/**
 * Whether each shard that a user saved is of the rank that its name says, as the names of the
 * archives tell it ({@link ArchiveNames}).
 */
final class ShardArchives {
  private ShardArchives() {}

  /**
   * What the names prove.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if a shard was saved as that of another
   *     rank
   */
  static Evidence evidence(UserShards user, SortedMap<Integer, Shard> shards) {
    SortedMap<Integer, String> archives = new TreeMap<>();
    SortedMap<Integer, Integer> numbers = new TreeMap<>();
    shards.forEach(
        (rank, shard) -> {
          archives.put(rank, shard.file().archiveName());
          number(user, shard.file()).ifPresent(number -> numbers.put(rank, number));
        });
    List<Integer> wrong = new ArrayList<>();
    if (!isRenumberedAlike(numbers, shards.size())) {
      numbers.forEach(
          (rank, number) -> {
            if (!number.equals(rank)) {
              wrong.add(rank);
            }
          });
    }
    NumberedNames.outOfOrder(archives).ifPresent(wrong::add);
    addOthersOfThePattern(archives, numbers, wrong);
    if (!wrong.isEmpty()) {
      int rank = wrong.get(0);
      throw ArchiveNames.outOfOrder(user.shards().get(rank), archives.get(rank), rank);
    }
    List<String> without =
        shards.keySet().stream()
            .filter(rank -> !rank.equals(numbers.get(rank)))
            .map(rank -> user.shards().get(rank))
            .map(FileStat::name)
            .toList();
    boolean inOrder = NumberedNames.tellsOrder(archives);
    return Evidence.identity(
        inOrder && !without.isEmpty()
            ? "archive names, which were all changed alike"
            : "archive names",
        inOrder ? shards.size() : shards.size() - without.size(),
        inOrder ? List.of() : without);
  }

  /** The rank in the archive's name, if that is made like the names of the shards. */
  private static OptionalInt number(UserShards user, TorchFile file) {
    String before = user.names().before();
    String after = user.names().after();
    int dot = after.lastIndexOf('.');
    OptionalInt whole = ShardNames.rankIn(before, after, file.archiveName());
    return whole.isPresent() || dot < 0
        ? whole
        : ShardNames.rankIn(before, after.substring(0, dot), file.archiveName());
  }

  /** Whether all were counted from another number, or within nodes. */
  private static boolean isRenumberedAlike(SortedMap<Integer, Integer> numbers, int shards) {
    return numbers.size() == shards
        && shards > 1
        && numbers.values().stream().distinct().count() > 1
        && NumberedNames.outOfOrderNumbers(numbers).isEmpty()
        && (NumberedNames.isShifted(numbers) || NumberedNames.isWithinNodes(numbers));
  }

  /** A shard whose archive differs from its name in another number is of another time. */
  private static void addOthersOfThePattern(
      Map<Integer, String> archives, Map<Integer, Integer> numbers, List<Integer> wrong) {
    if (numbers.size() * 2 < archives.size() || numbers.isEmpty()) {
      return;
    }
    String template = NumberedNames.template(archives.get(numbers.keySet().iterator().next()));
    archives.forEach(
        (rank, archive) -> {
          if (!numbers.containsKey(rank) && NumberedNames.template(archive).equals(template)) {
            wrong.add(rank);
          }
        });
  }
}
