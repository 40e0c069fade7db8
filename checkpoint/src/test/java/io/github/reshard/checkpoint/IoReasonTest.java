package io.github.reshard.checkpoint;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.EOFException;
import java.io.IOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.DirectoryNotEmptyException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class IoReasonTest {
  static Stream<IOException> failures() {
    return Stream.of(
        new AccessDeniedException("/out/tag"),
        new NoSuchFileException("/out/tag"),
        new FileAlreadyExistsException("/out/tag"),
        new NotDirectoryException("/out/tag"),
        new DirectoryNotEmptyException("/out/tag"),
        new FileSystemException("/out/tag", null, "Read-only file system"),
        new FileSystemException("/out/tag", null, "No space left on device"),
        new FileSystemException("/out/tag"));
  }

  @ParameterizedTest
  @MethodSource("failures")
  void namesTheFileAndNoClass(IOException failure) {
    assertThat(IoReason.of(failure)).contains("/out/tag").endsWith(".").doesNotContain("Exception");
  }

  @Test
  void aMissingRightIsSaidWithWhatToDo() {
    assertThat(IoReason.of(new AccessDeniedException("/out/tag")))
        .isEqualTo(
            "this user has no right to do that with /out/tag. Ask for the right, or name another"
                + " place.");
  }

  @Test
  void aFullDiskIsSaidWithWhatToDo() {
    assertThat(IoReason.of(new IOException("No space left on device")))
        .startsWith("No space left on device. Make room and run it again");
  }

  @Test
  void whatSaysNothingIsSaidToSayNothing() {
    assertThat(IoReason.of(new EOFException())).isEqualTo("the system gives no reason.");
  }
}
