package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;
import java.util.SortedSet;
import java.util.TreeMap;
import java.util.TreeSet;

/**
 * Whether each file is the one that its name says. What is saved to a path keeps that name inside:
 * PyTorch calls the archive after it ({@link SavedName#ofArchive}). What is saved to a file object,
 * as DeepSpeed's fast checkpoint engine does, or to a path that is not ASCII, is called {@code
 * archive}, which tells nothing.
 *
 * <p>Files that were all renamed alike, in the order of their ranks, are what they are called; one
 * that is called by another name than all others was exchanged.
 */
public final class ArchiveNames {
  private record Named(FileStat stat, SavedName name, String archive, Optional<SavedName> saved) {}

  private final List<Named> files = new ArrayList<>();

  /** Model-parallel ranks may have been renumbered, but all alike. */
  private final MpRanks mpRanks = new MpRanks();

  private final MpRanks tensorRanks = new MpRanks();

  /**
   * Takes note of a file of the source.
   *
   * @throws RefusedException if its archive says that it is another file of a checkpoint
   */
  void add(FileStat stat, TorchFile file) {
    Optional<SavedName> name = SavedName.of(stat.name());
    if (name.isEmpty()) {
      return;
    }
    requireWrittenSo(stat, name.get());
    Named named =
        new Named(stat, name.get(), file.archiveName(), SavedName.ofArchive(file.archiveName()));
    if (named.saved().isPresent() && !named.saved().get().isOfRankOf(name.get())) {
      throw exchanged(named);
    }
    files.add(named);
  }

  /** DeepSpeed would not find a file whose numbers are written in another way. */
  private static void requireWrittenSo(FileStat stat, SavedName name) {
    if (!stat.name().equals(name.writtenAs())) {
      throw new RefusedException(
          stat.path(),
          "expected the name '%s', by which DeepSpeed looks for %s. The file was renamed; give it that name."
              .formatted(name.writtenAs(), name.text()));
    }
  }

  private static RefusedException exchanged(Named file) {
    return new RefusedException(
        file.stat().path(),
        "the archive in it is called '%s': it was saved as %s, expected %s. The file was exchanged, copied or renamed; put each file back under the name that it was saved as."
            .formatted(file.archive(), file.saved().orElseThrow().text(), file.name().text()));
  }

  /**
   * Compares the files with each other, when all are known.
   *
   * @return what their names prove
   * @throws RefusedException if they were not all renamed alike
   */
  public List<Evidence> evidence() {
    requireOnePrefix();
    List<String> without = new ArrayList<>();
    for (Named file : files) {
      if (file.saved().isPresent()) {
        of(file).add(file);
      } else {
        without.add(file.stat().name());
      }
    }
    boolean mpRenamed = mpRanks.requireAlike();
    boolean tensorRenamed = tensorRanks.requireAlike();
    boolean renamed = mpRenamed || tensorRenamed;
    requireRanksInOrder();
    int told = files.size() - without.size();
    List<Evidence> evidence = new ArrayList<>();
    if (!files.isEmpty()) {
      evidence.add(
          Evidence.identity(
              "archive names" + (renamed ? ", the model-parallel ranks renamed all alike" : ""),
              told,
              without));
    }
    return evidence;
  }

  private MpRanks of(Named file) {
    return file.name().kind() == SavedName.Kind.LAYER ? tensorRanks : mpRanks;
  }

  private void requireOnePrefix() {
    Named first = null;
    for (Named file : files) {
      if (file.name().kind() != SavedName.Kind.OPTIMIZER) {
        continue;
      }
      if (first != null && !prefix(first).equals(prefix(file))) {
        throw new RefusedException(
            file.stat().path(),
            "begins with '%s', '%s' with '%s'. DeepSpeed looks for files that all begin alike: one was renamed, or two checkpoints are mixed here."
                .formatted(prefix(file), first.stat().name(), prefix(first)));
      }
      first = first == null ? file : first;
    }
  }

  private static String prefix(Named file) {
    String name = file.stat().name();
    return name.substring(0, name.indexOf("rank_"));
  }

  /** Optimizer files that were saved under other names may tell their ranks all the same. */
  private void requireRanksInOrder() {
    Map<Integer, SortedMap<Integer, Named>> others = new TreeMap<>();
    for (Named file : files) {
      if (file.name().kind() == SavedName.Kind.OPTIMIZER && file.saved().isEmpty()) {
        others
            .computeIfAbsent(file.name().mpRank(), k -> new TreeMap<>())
            .put(file.name().numbers().get(0), file);
      }
    }
    for (SortedMap<Integer, Named> ofMpRank : others.values()) {
      SortedMap<Integer, String> archives = new TreeMap<>();
      ofMpRank.forEach((rank, file) -> archives.put(rank, file.archive()));
      NumberedNames.outOfOrder(archives)
          .ifPresent(
              rank -> {
                throw outOfOrder(ofMpRank.get(rank).stat(), archives.get(rank), rank);
              });
    }
  }

  public static RefusedException outOfOrder(FileStat stat, String archive, int rank) {
    return new RefusedException(
        stat.path(),
        "the archive in it is called '%s', which is not the number that rank %d has in the order of the others: it was saved as another rank's or at another time. Put each file back under the name that it was saved as."
            .formatted(archive, rank));
  }

  /** How model-parallel ranks are called now and were called when they were saved. */
  private static final class MpRanks {
    private final List<Named> files = new ArrayList<>();
    private final SortedMap<Integer, SortedSet<Integer>> saved = new TreeMap<>();

    void add(Named file) {
      files.add(file);
      saved
          .computeIfAbsent(file.name().mpRank(), k -> new TreeSet<>())
          .add(file.saved().orElseThrow().mpRank());
    }

    /**
     * @return whether they were renamed at all
     */
    boolean requireAlike() {
      Optional<Named> renamed =
          files.stream()
              .filter(f -> f.name().mpRank() != f.saved().orElseThrow().mpRank())
              .findFirst();
      if (renamed.isEmpty()) {
        return false;
      }
      if (!isInOrder() && !isSequenceParallel()) {
        throw exchanged(renamed.get());
      }
      return true;
    }

    /** Whether each rank has one old name, and these are in the same order. */
    private boolean isInOrder() {
      int last = -1;
      for (SortedSet<Integer> ranks : saved.values()) {
        if (ranks.size() > 1 || ranks.first() <= last) {
          return false;
        }
        last = ranks.first();
      }
      return true;
    }

    /**
     * DeepSpeed before 0.18.3 wrote the rank within a sequence as mp rank, though every rank had
     * the whole model: rank {@code r} of {@code k} that share a sequence is {@code r % k}. Renamed
     * to the names of today they are all of mp rank 0.
     */
    private boolean isSequenceParallel() {
      if (saved.size() != 1 || saved.firstKey() != 0) {
        return false;
      }
      int size = saved.get(0).last() + 1;
      Set<Integer> remainders = new LinkedHashSet<>();
      for (Named file : files) {
        List<Integer> numbers = file.name().numbers();
        boolean ofRank =
            file.name().kind() == SavedName.Kind.OPTIMIZER
                || file.name().kind() == SavedName.Kind.RANK_MODEL;
        int expected = ofRank ? numbers.get(0) % size : 0;
        if (file.saved().orElseThrow().mpRank() != expected) {
          return false;
        }
        remainders.add(expected);
      }
      return remainders.size() == size;
    }
  }
}
