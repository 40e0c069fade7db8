package io.github.reshard.checkpoint.storage;

import java.io.IOException;
import java.io.Serializable;
import java.util.List;
import java.util.Optional;

/**
 * A directory of small files in an output, by which the processes of one job tell one another how
 * it stands, on whatever machines they are. One job has it at a time, and it goes when that ends.
 */
public interface JobDirectory extends Serializable {
  /** What it is called in the output. */
  String NAME = ".reshard-follow";

  /** The file in it that says which run has it, and by which process that last showed itself. */
  String LOCK = "lock";

  /**
   * Takes it for {@code run}, with what is in it, from one that is dead or gave no sign of life for
   * long.
   *
   * @throws OutputHeldException if a living run has it
   * @throws io.github.reshard.checkpoint.OutputException if it cannot be written
   */
  void acquire(String run) throws IOException;

  /**
   * Shows that {@code run} lives, in this process from now on.
   *
   * @return false if another run has it, or it is gone
   */
  boolean renew(String run) throws IOException;

  /**
   * Writes a file, in place of what is there; it appears whole.
   *
   * @throws io.github.reshard.checkpoint.OutputException if it cannot
   */
  void put(String name, byte[] content) throws IOException;

  /** What a file holds; empty if there is none. */
  Optional<byte[]> get(String name) throws IOException;

  /** The names of all files but the lock, sorted. */
  List<String> names() throws IOException;

  /** Removes a file, if it is there. */
  void delete(String name) throws IOException;

  /** Removes all files but the lock. */
  void clear() throws IOException;

  /** Removes all of it, the lock last, if {@code run} has it. */
  void release(String run) throws IOException;
}
