package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;
import java.nio.charset.StandardCharsets;

/** Files that are read as a whole. */
final class SmallFile {
  private static final long MOST_BYTES = 1L << 30;

  private SmallFile() {}

  static String text(SourceStore store, FileStat file) throws IOException {
    if (file.bytes() > MOST_BYTES) {
      throw new RefusedException(
          file.path(), "expected a small text, found %d bytes".formatted(file.bytes()));
    }
    return StandardCharsets.UTF_8.decode(store.read(file, 0, file.bytes())).toString();
  }
}
