package io.github.reshard.checkpoint;

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
}
