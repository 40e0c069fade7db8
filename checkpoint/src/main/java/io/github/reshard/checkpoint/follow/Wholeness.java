package io.github.reshard.checkpoint.follow;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata;
import io.github.reshard.checkpoint.deepspeed.SavedFiles;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.universal.UniversalFiles;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.NoSuchFileException;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.function.Predicate;
import java.util.regex.Pattern;

/**
 * Whether a checkpoint is there to its end: the files of DeepSpeed ({@link SavedFiles}) and what
 * the library around it writes after them, on every rank and without waiting:
 *
 * <ul>
 *   <li>Hugging Face Trainer: {@code rng_state_R.pth} of each process, and {@code
 *       trainer_state.json} last of process 0 (transformers 4.57, trainer.py, {@code
 *       _save_checkpoint});
 *   <li>Accelerate: {@code random_states_R.pkl} of each process, once all of them have left {@code
 *       save_checkpoint} (1.15, checkpointing.py); who calls a tag {@code pytorch_model} without
 *       Accelerate has none.
 * </ul>
 */
public final class Wholeness implements Watch.Judge {
  private static final Pattern TRAINER = Pattern.compile("checkpoint-\\d{1,18}");
  private static final String TRAINER_STATE = "trainer_state.json";
  private static final String ACCELERATE = "pytorch_model";
  private static final String RANDOM_STATES = "random_states_";

  private final SourceStore store;
  private final SavedFiles saved;

  /**
   * @param store where the checkpoints are
   */
  public Wholeness(SourceStore store) {
    this.store = store;
    this.saved = new SavedFiles(store);
  }

  /**
   * What {@code look} lacks, a sentence each; none if it is whole.
   *
   * @param stale which files are of an earlier checkpoint of this name
   * @throws RefusedException if it is of a kind that is not supported
   */
  @Override
  public List<String> missing(Look look, Predicate<FileStat> stale) throws IOException {
    requireNative(look);
    List<String> missing = new ArrayList<>(saved.missing(look.tagDirectory(), look.files(), stale));
    int processes = saved.processes(look.files());
    if (TRAINER.matcher(look.saved().name()).matches()) {
      addMissingOfTrainer(look.beside(), processes, missing);
    } else if (look.saved().tag().equals(ACCELERATE)
        && look.beside().stream().anyMatch(file -> file.name().startsWith(RANDOM_STATES))) {
      for (int process = 0; process < processes; process++) {
        require(look.beside(), RANDOM_STATES + process + ".pkl", missing);
      }
    }
    for (FileStat file : look.beside()) {
      addUnended(file, missing);
    }
    return missing;
  }

  /** Other formats take a main job each, with what only its user knows. */
  private static void requireNative(Look look) {
    if (find(look.files(), DcpMetadata.FILE_NAME).isPresent()) {
      throw new RefusedException(
          look.tagDirectory(),
          "is a distributed checkpoint, which is not followed: files of DeepSpeed are made of it by"
              + " the main job with --template, and any other loader cuts it for its own ranks.");
    }
    String states = look.tagDirectory() + "/" + UniversalFiles.FOLDER + "/";
    if (look.deeper().stream().anyMatch(file -> file.path().startsWith(states))) {
      throw new RefusedException(
          look.tagDirectory(),
          "is a Universal Checkpoint, which no run saves and which is not followed: make native"
              + " files of it with the main job.");
    }
  }

  private void addMissingOfTrainer(List<FileStat> beside, int processes, List<String> missing)
      throws IOException {
    for (int process = 0; process < processes; process++) {
      require(beside, processes == 1 ? "rng_state.pth" : "rng_state_" + process + ".pth", missing);
    }
    Optional<FileStat> state = find(beside, TRAINER_STATE);
    if (state.isEmpty()) {
      missing.add(TRAINER_STATE + " is not there");
    } else if (!endsAsJson(state.get())) {
      missing.add(TRAINER_STATE + " has no end yet");
    }
  }

  private static void require(List<FileStat> files, String name, List<String> missing) {
    if (find(files, name).isEmpty()) {
      missing.add(name + " is not there");
    }
  }

  private static Optional<FileStat> find(List<FileStat> files, String name) {
    return files.stream().filter(file -> file.name().equals(name)).findFirst();
  }

  private boolean endsAsJson(FileStat file) throws IOException {
    ByteBuffer end = ByteBuffer.allocate((int) Math.min(8, file.bytes()));
    try (RangedFile open = store.open(file)) {
      open.readFully(file.bytes() - end.capacity(), end);
    } catch (RefusedException | FileNotFoundException | NoSuchFileException e) {
      return false;
    }
    int at = end.capacity() - 1;
    while (at >= 0 && Character.isWhitespace(end.get(at))) {
      at--;
    }
    return at >= 0 && end.get(at) == '}';
  }

  private void addUnended(FileStat file, List<String> missing) throws IOException {
    // An empty file beside a tag may be meant to be so.
    if (file.bytes() > 0) {
      SavedFiles.unended(store, file).ifPresent(what -> missing.add(file.name() + " " + what));
    }
  }
}
