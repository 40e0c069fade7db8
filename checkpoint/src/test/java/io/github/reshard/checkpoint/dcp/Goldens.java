package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.storage.LocalSourceStore;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;

/** The distributed checkpoints of {@code testdata/dcp}, which PyTorch wrote. */
final class Goldens {
  static final Path ROOT = Path.of(System.getProperty("reshard.testdata"), "dcp");

  private Goldens() {}

  /** All directories with a checkpoint. */
  static Stream<Path> all() {
    try (Stream<Path> files = Files.walk(ROOT)) {
      return files
          .filter(p -> p.endsWith(DcpMetadata.FILE_NAME))
          .map(Path::getParent)
          .sorted()
          .toList()
          .stream();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  static byte[] metadata(Path directory) {
    try {
      return Files.readAllBytes(directory.resolve(DcpMetadata.FILE_NAME));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  static DcpDirectory read(Path directory) throws IOException {
    return DcpDirectory.find(new LocalSourceStore(), directory.toString()).orElseThrow();
  }

  /** The names of all data files in {@code directory}. */
  static List<Path> dataFiles(Path directory) throws IOException {
    try (Stream<Path> files = Files.list(directory)) {
      return files.filter(p -> p.toString().endsWith(DcpMetadata.DATA_SUFFIX)).sorted().toList();
    }
  }
}
