package io.github.reshard.checkpoint.state;

import java.io.Serializable;

/**
 * A byte in a file.
 *
 * @param file index into the plan's sources or targets
 * @param entry index into that file's entries
 * @param offset counted from the beginning of the file, in bytes
 */
public record Address(int file, int entry, long offset) implements Serializable {
  /** The address {@code bytes} further on in the same entry. */
  public Address plus(long bytes) {
    return new Address(file, entry, offset + bytes);
  }
}
