package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.pipeline.storage.Stores;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * What a run is to go on from.
 *
 * @param location the directory that {@code save_checkpoint} was given
 * @param name what it is called in the output directory of Hugging Face Trainer, such as {@code
 *     checkpoint-500}; empty if it is in none
 * @param broken newer ones there that were not saved to their end
 */
record ResumeInput(String location, String name, List<String> broken) {
  private static final Pattern TRAINER = Pattern.compile("checkpoint-(\\d{1,18})");
  private static final String LATEST = "latest";

  /** The last file but the random states that {@code Trainer._save_checkpoint} writes. */
  private static final String TRAINER_STATE = "trainer_state.json";

  /**
   * What {@code input} means: itself or, if it is Trainer's output directory, the newest whole
   * {@code checkpoint-N} in it.
   *
   * @throws RefusedException if there are such directories and none is whole
   */
  static ResumeInput of(SourceStore store, String input, boolean tagGiven) throws IOException {
    String directory = Stores.directory(input);
    SourceStore.Listing top;
    try {
      top = store.list(directory);
    } catch (NoSuchFileException | FileNotFoundException | NotDirectoryException e) {
      throw new RefusedException(
          directory, "there is no such directory. --input is what save_checkpoint was given.", e);
    }
    List<String> saved =
        new ArrayList<>(
            top.directories().stream().filter(name -> TRAINER.matcher(name).matches()).toList());
    if (tagGiven || saved.isEmpty() || has(top, LATEST)) {
      return new ResumeInput(directory, "", List.of());
    }
    saved.sort(Comparator.comparingLong(ResumeInput::step).reversed());
    List<String> broken = new ArrayList<>();
    for (String name : saved) {
      String at = store.child(directory, name);
      if (isWhole(store, at)) {
        return new ResumeInput(at, name, List.copyOf(broken));
      }
      broken.add(name);
    }
    throw new RefusedException(
        directory,
        "none of %s was saved to its end: expected a file `latest` that names a directory beside it, and %s. Name a directory of your own with --input."
            .formatted(broken, TRAINER_STATE));
  }

  private static boolean isWhole(SourceStore store, String directory) throws IOException {
    SourceStore.Listing inside = store.list(directory);
    return has(inside, TRAINER_STATE)
        && latest(store, inside).filter(inside.directories()::contains).isPresent();
  }

  /** What the file {@code latest} says; empty if there is none, or it is no name. */
  static Optional<String> latest(SourceStore store, SourceStore.Listing listing)
      throws IOException {
    for (FileStat file : listing.files()) {
      if (file.name().equals(LATEST)) {
        return Optional.of(SmallFile.text(store, file).strip());
      }
    }
    return Optional.empty();
  }

  private static boolean has(SourceStore.Listing listing, String name) {
    return listing.files().stream().anyMatch(file -> file.name().equals(name));
  }

  private static long step(String name) {
    Matcher matcher = TRAINER.matcher(name);
    return matcher.matches() ? Long.parseLong(matcher.group(1)) : -1;
  }
}
