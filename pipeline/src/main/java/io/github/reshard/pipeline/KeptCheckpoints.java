package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.pipeline.storage.Stores;
import java.io.IOException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;
import org.apache.beam.sdk.options.PipelineOptions;

/** Removes older checkpoints of an output, and only what is as this program made it. */
final class KeptCheckpoints {
  /** Begins what is said of one that was removed. */
  static final String REMOVED = "removed the older ";

  private static final Path LATEST = Path.of("latest");

  private KeptCheckpoints() {}

  /**
   * @param output what {@code save_checkpoint} would have been given
   */
  private record Made(Path directory, Path output, String tag, FileTime when) {}

  /**
   * Keeps the newest {@code keep} and what {@code latest} names.
   *
   * @param output a local directory
   * @param each whether {@code output} holds a directory for each checkpoint, as Hugging Face
   *     Trainer does, and not a tag
   * @return what was removed and what could not be, a sentence each
   */
  static List<String> removeOlder(String output, boolean each, int keep, PipelineOptions options)
      throws IOException {
    Path root = Path.of(Stores.directory(output));
    List<Made> made = new ArrayList<>();
    try (Stream<Path> children = Files.list(root)) {
      for (Path child : children.toList()) {
        Path tag = each ? child.resolve(latest(child)) : child;
        Path of = each ? child : root;
        Path manifest = tag.resolve(CheckpointFiles.MANIFEST);
        if (!Leftovers.isOne(child.getFileName().toString())
            && !tag.normalize().equals(root.normalize())
            && Files.isRegularFile(manifest)) {
          String name = of.relativize(tag).toString();
          made.add(new Made(child, of, name, Files.getLastModifiedTime(manifest)));
        }
      }
    }
    made.sort(
        Comparator.comparing(Made::when, Collections.reverseOrder())
            .thenComparing(one -> one.directory().toString()));
    List<String> notes = new ArrayList<>();
    for (Made old : made.subList(Math.min(keep, made.size()), made.size())) {
      String name = old.directory().getFileName().toString();
      if (!each && name.equals(latest(root))) {
        continue;
      }
      boolean untouched = new ReshardedOutput(old.output().toString(), options).isMade(old.tag());
      notes.add(
          untouched
              ? removed(root, name)
              : "kept the older %s: it is not as this program made it".formatted(old.directory()));
    }
    return notes;
  }

  private static String latest(Path directory) throws IOException {
    try {
      return Files.readString(directory.resolve(LATEST)).strip();
    } catch (FileSystemException e) {
      // None, or this is no directory.
      return "";
    }
  }

  /** Out of sight at once, then bit by bit: {@code cleanup} removes what a crash leaves. */
  private static String removed(Path root, String name) throws IOException {
    Path gone = root.resolve(Leftovers.name(name, "replaced"));
    try {
      Files.move(root.resolve(name), gone);
      deleteTree(gone);
      return REMOVED + root.resolve(name);
    } catch (IOException e) {
      return "could not remove the older %s: %s".formatted(root.resolve(name), e);
    }
  }

  private static void deleteTree(Path tree) throws IOException {
    List<Path> all;
    try (Stream<Path> found = Files.walk(tree)) {
      all = found.sorted(Comparator.reverseOrder()).toList();
    }
    for (Path path : all) {
      Files.delete(path);
    }
  }
}
