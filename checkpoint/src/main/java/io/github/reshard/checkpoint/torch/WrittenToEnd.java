package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.IOException;
import java.util.Optional;

/**
 * Whether a file that another program may still be writing is there to its end. {@code torch.save}
 * opens the file itself and writes it from front to back (PyTorch 2.9, torch/serialization.py,
 * {@code _open_zipfile_writer_file}): the directory of the zip and its end record come last.
 */
public final class WrittenToEnd {
  private WrittenToEnd() {}

  /**
   * What is not there yet, or empty if the file ends as {@code torch.save} ends it. A file of
   * another kind has no end that could be told: it counts as whole, and whoever reads it says what
   * it is.
   *
   * @throws IOException if reading fails
   */
  public static Optional<String> whatIsMissing(RangedFile file) throws IOException {
    if (file.size() == 0) {
      return Optional.of("is empty");
    }
    KeptRanges ranges = new KeptRanges(file, ZipDirectory.MOST_BEHIND);
    byte[] head = ranges.bytes(0, (int) Math.min(file.size(), 4));
    if (head.length < 4 || LittleEndian.u32(head, 0) == 0) {
      return Optional.of("has no beginning yet");
    }
    if (LittleEndian.u32(head, 0) != ZipFormat.LOCAL_SIGNATURE) {
      return Optional.empty();
    }
    try {
      ZipDirectory.read(ranges);
      return Optional.empty();
    } catch (RefusedException e) {
      return Optional.of("has no end record yet (%d bytes so far)".formatted(file.size()));
    }
  }
}
