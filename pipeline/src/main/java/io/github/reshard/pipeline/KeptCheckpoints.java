package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.IoReason;
import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.pipeline.storage.Stores;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import java.util.Optional;
import org.apache.beam.sdk.options.PipelineOptions;

/** Removes older checkpoints of an output, and only what is as this program made it. */
final class KeptCheckpoints {
  /** Begins what is said of one that was removed. */
  static final String REMOVED = "removed the older ";

  private final String output;
  private final SourceStore store;
  private final PipelineOptions options;

  private KeptCheckpoints(String output, PipelineOptions options) {
    this.output = Stores.directory(output);
    this.store = Stores.source(output, options);
    this.options = options;
  }

  /**
   * @param name of its directory in the output
   * @param of what {@code save_checkpoint} would have been given
   * @param when its manifest was written
   */
  private record Made(String name, String of, String tag, Instant when) {}

  /**
   * Keeps the newest {@code keep} and what {@code latest} names.
   *
   * @param each whether {@code output} holds a directory for each checkpoint, as Hugging Face
   *     Trainer does, and not a tag
   * @return what was removed and what could not be, a sentence each
   */
  static List<String> removeOlder(String output, boolean each, int keep, PipelineOptions options)
      throws IOException {
    return new KeptCheckpoints(output, options).removeOlder(each, keep);
  }

  private List<String> removeOlder(boolean each, int keep) throws IOException {
    SourceStore.Listing top = list(output);
    List<Made> made = new ArrayList<>();
    for (String name : top.directories()) {
      if (Leftovers.isOne(name)) {
        continue;
      }
      String of = each ? store.child(output, name) : output;
      Optional<String> tag = each ? ResumeInput.latest(store, list(of)) : Optional.of(name);
      if (tag.isPresent()) {
        list(store.child(of, tag.get())).files().stream()
            .filter(file -> file.name().equals(CheckpointFiles.MANIFEST))
            .map(FileStat::written)
            .forEach(when -> made.add(new Made(name, of, tag.get(), when)));
      }
    }
    made.sort(
        Comparator.comparing(Made::when, Collections.reverseOrder()).thenComparing(Made::name));
    Optional<String> latest = each ? Optional.empty() : ResumeInput.latest(store, top);
    List<String> notes = new ArrayList<>();
    for (Made old : made.subList(Math.min(keep, made.size()), made.size())) {
      if (!latest.equals(Optional.of(old.name()))) {
        notes.add(removed(old));
      }
    }
    return notes;
  }

  private SourceStore.Listing list(String directory) throws IOException {
    try {
      return store.list(directory);
    } catch (NoSuchFileException | FileNotFoundException | NotDirectoryException e) {
      return new SourceStore.Listing(List.of(), List.of());
    }
  }

  private String removed(Made old) throws IOException {
    String directory = store.child(output, old.name());
    if (!new ReshardedOutput(old.of(), options).isMade(old.tag())) {
      return "kept the older %s: it is not as this program made it".formatted(directory);
    }
    try {
      Stores.removePublished(output, old.name(), options);
      return REMOVED + directory;
    } catch (IOException e) {
      return "could not remove the older %s: %s".formatted(directory, IoReason.of(e));
    } catch (OutputException e) {
      return "could not remove the older " + e.getMessage();
    }
  }
}
