package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import java.io.Serializable;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

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

  /** The last part of its path. */
  public String name() {
    return path.substring(path.lastIndexOf('/') + 1);
  }

  /**
   * Every byte of a torch file that is not payload.
   *
   * @param layout of the file
   * @param storages the keys of all its storages; those of 0 bytes are no entries
   * @param crcs for each entry, the CRC-32 of its payload
   */
  public List<ByteSegment> skeleton(
      TorchFileLayout layout, List<String> storages, List<Integer> crcs) {
    if (layout.totalBytes() != bytes) {
      throw new IllegalStateException(
          "%s was planned with %d bytes and now has %d"
              .formatted(path, bytes, layout.totalBytes()));
    }
    Map<String, Integer> byKey = new HashMap<>();
    storages.forEach(empty -> byKey.put(empty, 0));
    for (int e = 0; e < crcs.size(); e++) {
      byKey.put(entries.get(e).key(), crcs.get(e));
    }
    return layout.segments(byKey);
  }
}
