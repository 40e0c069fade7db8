package io.github.reshard.checkpoint.storage;

import java.io.Serializable;
import java.time.Instant;

/**
 * A file as it was seen when the work was planned.
 *
 * @param path the full path or URI
 * @param name the last component of the path
 * @param bytes the length in bytes
 * @param version what changes when the content changes: a modification time, an object generation
 * @param executable whether it is marked as a program, as DeepSpeed marks {@code zero_to_fp32.py}
 * @param written when this content was written, by the clock of the store; {@link Instant#EPOCH}
 *     where that is not told
 */
public record FileStat(
    String path, String name, long bytes, String version, boolean executable, Instant written)
    implements Serializable {
  /** A file of which nobody says when it was written. */
  public FileStat(String path, String name, long bytes, String version, boolean executable) {
    this(path, name, bytes, version, executable, Instant.EPOCH);
  }
}
