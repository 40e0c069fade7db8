package io.github.reshard.checkpoint;

import java.nio.file.AccessDeniedException;
import java.nio.file.DirectoryNotEmptyException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.Locale;

/**
 * Why reading or writing failed, as a sentence with what to do: the JDK says it by the name of an
 * exception and leaves only a path in the message.
 */
public final class IoReason {
  private IoReason() {}

  /** What {@code failure} means for somebody who does not know Java. */
  public static String of(Exception failure) {
    if (failure instanceof FileSystemException of && of.getFile() != null) {
      String file = of.getFile();
      if (of instanceof AccessDeniedException) {
        return "this user has no right to do that with %s. Ask for the right, or name another place."
            .formatted(file);
      } else if (of instanceof NoSuchFileException) {
        return "%s is not there. Did something remove it meanwhile? Run it again.".formatted(file);
      } else if (of instanceof FileAlreadyExistsException || of instanceof NotDirectoryException) {
        return "%s is there and no directory. Move it away, or name another place.".formatted(file);
      } else if (of instanceof DirectoryNotEmptyException) {
        return "%s is not empty. Did something else write there meanwhile? Run it again."
            .formatted(file);
      } else if (of.getReason() != null) {
        return file + ": " + withAdvice(of.getReason());
      }
      return file + ": the system gives no reason.";
    }
    String message = failure.getMessage();
    return message == null || message.isBlank()
        ? "the system gives no reason."
        : withAdvice(message);
  }

  /** With what to do about a full disk, a quota and a disk that takes no writes. */
  private static String withAdvice(String reason) {
    String lower = reason.toLowerCase(Locale.ROOT);
    if (lower.contains("no space left") || lower.contains("quota exceeded")) {
      return reason + ". Make room and run it again; what this run wrote is not published.";
    } else if (lower.contains("read-only file system")) {
      return reason + ". Name another place.";
    }
    return reason;
  }
}
