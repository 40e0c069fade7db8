package io.github.reshard.runners;

/**
 * The command line asks for something that does not exist or is not complete. The command exits
 * with 2.
 */
final class UsageException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  UsageException(String message) {
    super(message);
  }

  UsageException(String message, Throwable cause) {
    super(message, cause);
  }
}
