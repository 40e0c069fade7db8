package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.json.Json;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.LinkedHashSet;
import java.util.Set;

/** Files that an option names. */
public final class NamedFile {
  private NamedFile() {}

  /** The directory that a path is in. */
  public static String parent(String path) {
    int slash = path.lastIndexOf('/');
    return slash < 0 ? "." : slash == 0 ? "/" : path.substring(0, slash);
  }

  /**
   * A file in {@code directory}, else at a path.
   *
   * @throws RefusedException if it is at neither
   */
  public static FileStat find(SourceStore store, String directory, String path, String option)
      throws IOException {
    String name = path.substring(path.lastIndexOf('/') + 1);
    Set<String> places = new LinkedHashSet<>();
    if (!path.startsWith("/") && !path.contains("://")) {
      places.add(path.contains("/") ? store.child(directory, parent(path)) : directory);
    }
    places.add(parent(path));
    for (String place : places) {
      try {
        for (FileStat file : store.list(place).files()) {
          if (file.name().equals(name)) {
            return file;
          }
        }
      } catch (NoSuchFileException | NotDirectoryException | FileNotFoundException e) {
        // Then it is in the next place, or missing.
      }
    }
    throw new RefusedException(
        path, "there is no such file, which %s names; looked in %s.".formatted(option, places));
  }

  /**
   * What a small file of JSON says.
   *
   * @throws RefusedException if it is larger than {@code most} bytes, or no JSON
   */
  public static Object json(SourceStore store, FileStat stat, long most) throws IOException {
    if (stat.bytes() > most) {
      throw new RefusedException(
          stat.path(), "expected a small JSON file, found %d bytes".formatted(stat.bytes()));
    }
    return Json.parse(stat.path(), store.read(stat, 0, stat.bytes()));
  }
}
