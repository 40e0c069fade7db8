package io.github.reshard.checkpoint;

/**
 * The output cannot be written: no room, no permission, or something is there that may not be
 * replaced. Nothing of it looks whole. The message names the file, what was tried, what happened
 * and what to do. The command exits with 4.
 */
public class OutputException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /**
   * @param where the file or directory that was to be written
   * @param problem what was tried, and what happened
   */
  public OutputException(String where, String problem) {
    super(where + ": " + problem);
  }

  /** As {@link #OutputException(String, String)}, with the underlying failure. */
  public OutputException(String where, String problem, Throwable cause) {
    super(where + ": " + problem, cause);
  }
}
