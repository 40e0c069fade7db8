package io.github.reshard.checkpoint.plan;

import java.io.Serializable;
import java.util.List;

/**
 * A file of the output.
 *
 * @param path relative to the output directory, with {@code /}
 * @param bytes its length
 * @param recipe how it is made
 * @param entries the runs of payload in it, by offset; what lies between is written when the file
 *     is finished
 */
public record TargetFile(String path, long bytes, Recipe recipe, List<Entry> entries)
    implements Serializable {
  /**
   * A run of payload bytes whose CRC is wanted.
   *
   * @param key the storage key in a torch file; empty for the content of a file that is copied as
   *     it is
   * @param offset the first byte, counted from the beginning of the file
   * @param bytes its length
   */
  public record Entry(String key, long offset, long bytes) implements Serializable {}

  public TargetFile {
    entries = List.copyOf(entries);
  }
}
