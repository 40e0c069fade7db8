package io.github.reshard.checkpoint;

import java.util.function.Supplier;

/**
 * The input is missing, damaged, inconsistent or not supported, and nothing was guessed. The
 * message names the file, the entry, offset or parameter, what was expected, what was found and
 * what to do. The command exits with 3.
 */
public final class RefusedException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /**
   * @param where the file, and the entry, offset or parameter in it
   * @param problem what was expected and what was found
   */
  public RefusedException(String where, String problem) {
    super(where + ": " + problem);
  }

  /** As {@link #RefusedException(String, String)}, with the underlying failure. */
  public RefusedException(String where, String problem, Throwable cause) {
    super(where + ": " + problem, cause);
  }

  /**
   * What {@code look} gives; what it refuses is refused with the file that it is in.
   *
   * @param file the file, and what in it is looked at
   */
  public static <T> T inFile(String file, Supplier<T> look) {
    try {
      return look.get();
    } catch (RefusedException e) {
      throw new RefusedException(file, e.getMessage(), e);
    }
  }
}
