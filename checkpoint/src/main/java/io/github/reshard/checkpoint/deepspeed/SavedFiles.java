package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.torch.WrittenToEnd;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Whether all files of a tag are there to their end, while the run that saves it may still be at
 * work. {@code latest} does not say so: rank 0 writes it without waiting for the others (DeepSpeed
 * 0.19.6, runtime/engine.py, {@code save_checkpoint}). One model file that is whole names the set.
 *
 * <p>Every rank writes its optimizer file last, behind its layer, expert and model files, so the
 * number of those, which no file says, need not be known.
 *
 * <p>Remembers which files were found whole, so that looking again costs a listing.
 */
public final class SavedFiles {
  private static final int MOST_NAMED = 8;

  /** A file may claim any number of ranks. */
  private static final int MOST_COUNTED = 1000;

  /** Parts of a file as DeepSpeed's fast writer leaves them (0.19.6, io/fast_file_writer.py). */
  private static final Pattern FAST_PART = Pattern.compile(".+\\.pt-\\d+\\.\\d+");

  /** A zip with one short text in it is no larger. */
  private static final long PLACEHOLDER_BYTES = 2048;

  private final SourceStore store;
  private final Map<FileStat, Optional<Sizes>> whole = new HashMap<>();

  /**
   * @param store where the files are
   */
  public SavedFiles(SourceStore store) {
    this.store = store;
  }

  /**
   * What one model file says of the set.
   *
   * @param ranks {@code dp_world_size}
   * @param mpRanks {@code mp_world_size}
   * @param experts for each mixture of experts, how many there are
   */
  private record Sizes(int ranks, int mpRanks, List<Integer> experts) {}

  /**
   * What is still missing of a tag, a sentence each; none if it is whole. What is whole and wrong
   * is the planner's to refuse.
   *
   * @param files directly in the directory of the tag
   * @param stale which of them are of an earlier checkpoint of this name, and count as not there
   * @throws RefusedException if the tag is of a kind of writer that is not supported
   * @throws IOException if reading fails
   */
  public List<String> missing(String tagDirectory, List<FileStat> files, Predicate<FileStat> stale)
      throws IOException {
    whole.keySet().removeIf(known -> isIn(tagDirectory, known) && !files.contains(known));
    requireKnownWriter(files);
    List<String> missing = new ArrayList<>();
    Optional<FileStat> model = Optional.empty();
    for (FileStat file : files) {
      if (!file.name().endsWith(".pt") && !file.name().endsWith(".pth")) {
        continue;
      }
      Optional<String> lacks = lacks(file);
      lacks.ifPresent(what -> missing.add(file.name() + " " + what));
      if (lacks.isEmpty() && isModel(file) && model.isEmpty() && !stale.test(file)) {
        model = Optional.of(file);
      }
    }
    if (model.isEmpty()) {
      missing.add("no model file is whole (*mp_rank_*_model_states.pt)");
    } else if (whole.get(model.get()).isPresent()) {
      List<FileStat> fresh = files.stream().filter(file -> !stale.test(file)).toList();
      addMissing(whole.get(model.get()).get(), fresh, missing);
    }
    return missing;
  }

  /** How many processes save, as a model file says that was found whole; 0 if none was. */
  public int processes(List<FileStat> files) {
    for (FileStat file : files) {
      Optional<Sizes> sizes = whole.getOrDefault(file, Optional.empty());
      if (sizes.isPresent()) {
        return Math.min(MOST_COUNTED, sizes.get().ranks() * sizes.get().mpRanks());
      }
    }
    return 0;
  }

  private boolean isIn(String directory, FileStat file) {
    return file.path().equals(store.child(directory, file.name()));
  }

  private static boolean isModel(FileStat file) {
    return CheckpointFiles.MODEL.matcher(file.name()).matches()
        || CheckpointFiles.RANK_MODEL.matcher(file.name()).matches();
  }

  /** What the file lacks; what a model file says is kept. */
  private Optional<String> lacks(FileStat file) throws IOException {
    if (whole.containsKey(file)) {
      return Optional.empty();
    }
    Optional<String> lacks = unended(store, file);
    if (lacks.isPresent()) {
      return lacks;
    }
    Optional<TorchFile> header = Optional.empty();
    boolean maybePlaceholder =
        file.bytes() <= PLACEHOLDER_BYTES && CheckpointFiles.isTagFile(file.name());
    if (isModel(file) || maybePlaceholder) {
      try (RangedFile open = store.open(file)) {
        header = Optional.of(TorchFile.read(open));
      } catch (RefusedException | FileNotFoundException | NoSuchFileException e) {
        // Whoever plans says why; if it changed, the next look shows it.
      }
    }
    header.ifPresent(SavedFiles::requireContent);
    whole.put(file, isModel(file) ? header.flatMap(SavedFiles::sizes) : Optional.empty());
    return Optional.empty();
  }

  /**
   * What is not there yet of {@code file}, or empty if it is there to its end.
   *
   * @throws IOException if reading fails
   */
  public static Optional<String> unended(SourceStore store, FileStat file) throws IOException {
    try (RangedFile open = store.open(file)) {
      return WrittenToEnd.whatIsMissing(open);
    } catch (FileNotFoundException | NoSuchFileException e) {
      return Optional.of("is gone");
    } catch (RefusedException e) {
      String problem = e.getMessage();
      return Optional.of(
          problem.startsWith(file.path()) ? problem.substring(file.path().length() + 2) : problem);
    }
  }

  /** Empty if the file does not say, which the planner refuses. */
  private static Optional<Sizes> sizes(TorchFile file) {
    try {
      PickledValue root = PickledValue.root(file.path(), file.parse().root());
      List<Integer> experts = new ArrayList<>();
      Optional<PickledValue> counts = root.findPresent("num_experts").filter(PickledValue::isList);
      if (counts.isPresent()) {
        counts.get().items().forEach(count -> experts.add(count.asInt()));
      }
      return Optional.of(
          new Sizes(
              root.get(ModelStates.DP_WORLD_SIZE).asInt(),
              root.find("mp_world_size").map(PickledValue::asInt).orElse(1),
              List.copyOf(experts)));
    } catch (RefusedException e) {
      return Optional.empty();
    }
  }

  private void addMissing(Sizes sizes, List<FileStat> files, List<String> missing) {
    Map<Integer, Map<Integer, FileStat>> optimizers = new TreeMap<>();
    Map<Integer, Map<Integer, FileStat>> rankModels = new TreeMap<>();
    List<String> models = new ArrayList<>();
    List<String> experts = new ArrayList<>();
    String prefix = "";
    for (FileStat file : files) {
      Matcher optimizer = CheckpointFiles.OPTIMIZER.matcher(file.name());
      Matcher rankModel = CheckpointFiles.RANK_MODEL.matcher(file.name());
      if (optimizer.matches()) {
        add(optimizers, optimizer, file);
        prefix = file.name().startsWith("bf16_") ? "bf16_" : prefix;
      } else if (rankModel.matches()) {
        add(rankModels, rankModel, file);
      } else if (CheckpointFiles.MODEL.matcher(file.name()).matches()) {
        models.add(file.name());
      } else {
        experts.add(file.name());
      }
    }
    // Sequence-parallel ranks have mp names of their own and are ranks of one partitioning.
    boolean sequence = sizes.mpRanks() == 1 && optimizers.size() > 1;
    List<String> names = new ArrayList<>();
    int mpRanks = sequence ? 1 : sizes.mpRanks();
    for (int mp = 0; mp < mpRanks && names.size() < MOST_COUNTED; mp++) {
      for (int rank = 0; rank < sizes.ranks() && names.size() < MOST_COUNTED; rank++) {
        String of = "zero_pp_rank_%d_mp_rank_%02d_".formatted(rank, mp);
        if (!has(optimizers, rank, mp, sequence)) {
          names.add(prefix + of + "optim_states.pt");
        }
        if (!rankModels.isEmpty() && !has(rankModels, rank, mp, sequence)) {
          names.add(of + "model_states.pt");
        }
      }
      String model = "mp_rank_%02d_model_states.pt".formatted(mp);
      if (rankModels.isEmpty() && !models.contains(model)) {
        names.add(model);
      }
      for (int layer = 0; layer < sizes.experts().size(); layer++) {
        addExperts(layer, sizes.experts().get(layer), mp, experts, names);
      }
    }
    if (names.size() > MOST_NAMED) {
      missing.add(
          "%s%d files are not there, such as %s"
              .formatted(
                  names.size() < MOST_COUNTED ? "" : "at least ",
                  names.size(),
                  String.join(", ", names.subList(0, MOST_NAMED))));
    } else {
      names.forEach(name -> missing.add(name + " is not there"));
    }
  }

  private static void addExperts(
      int layer, int count, int mp, Collection<String> there, Collection<String> missing) {
    for (int expert = 0; expert < count && missing.size() < MOST_COUNTED; expert++) {
      String name = "layer_%d_expert_%d_mp_rank_%02d_model_states.pt".formatted(layer, expert, mp);
      if (!there.contains(name)) {
        missing.add(name);
      }
    }
  }

  private static void add(Map<Integer, Map<Integer, FileStat>> files, Matcher m, FileStat file) {
    files
        .computeIfAbsent(Integer.parseInt(m.group(2)), mp -> new TreeMap<>())
        .put(Integer.parseInt(m.group(1)), file);
  }

  private static boolean has(
      Map<Integer, Map<Integer, FileStat>> files, int rank, int mp, boolean anyMp) {
    return anyMp
        ? files.values().stream().anyMatch(ranks -> ranks.containsKey(rank))
        : files.getOrDefault(mp, Map.of()).containsKey(rank);
  }

  private static void requireKnownWriter(List<FileStat> files) {
    for (FileStat file : files) {
      if (FAST_PART.matcher(file.name()).matches()) {
        throw new RefusedException(
            file.path(),
            "is a part of a file as DeepSpeed's fast writer leaves it (checkpoint.writer, type 'fast'), which is not supported. Save with the default writer, or with type 'python'.");
      }
    }
  }

  /** Engines that write elsewhere leave a file of PyTorch that holds an empty text. */
  private static void requireContent(TorchFile file) {
    PickledValue root;
    try {
      root = PickledValue.root(file.path(), file.parse().root());
    } catch (RefusedException e) {
      return; // Whoever plans says why.
    }
    if (root.isText()) {
      throw new RefusedException(
          file.path(),
          "holds a text in the place of a state: a placeholder, as the checkpoint engines Nebula, DataStates and VELOC leave it, which keep the state elsewhere. Save with DeepSpeed's own engine.");
    }
  }
}
