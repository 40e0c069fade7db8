package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.format.CarriedFile;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.TrainingState;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;

/** The files of a pipeline's layers, which hold its weights. */
public final class LayerFiles {
  private LayerFiles() {}

  /** Those of one tensor-parallel rank, by the layer. */
  public static SortedMap<Integer, ReadFile> of(TrainingState state, int tensorRank) {
    SortedMap<Integer, ReadFile> files = new TreeMap<>();
    for (CarriedFile carried : state.carried()) {
      name(carried)
          .filter(name -> name.tensorRank() == tensorRank && carried.file().isPresent())
          .ifPresent(
              name ->
                  files.put(name.layer(), new ReadFile(carried.source(), carried.file().get())));
    }
    return files;
  }

  /** How many tensor-parallel ranks have such files. */
  public static int tensorRanks(TrainingState state) {
    int ranks = 1;
    while (!of(state, ranks).isEmpty()) {
      ranks++;
    }
    return ranks;
  }

  /** Whether a file is of a layer. */
  public static boolean isOne(CarriedFile carried) {
    return name(carried).isPresent();
  }

  private static Optional<CheckpointFiles.LayerName> name(CarriedFile carried) {
    return carried.ofTag()
        ? Optional.ofNullable(CheckpointFiles.LayerName.parse(carried.path()))
        : Optional.empty();
  }
}
