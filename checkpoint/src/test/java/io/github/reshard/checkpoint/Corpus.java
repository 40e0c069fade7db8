package io.github.reshard.checkpoint;

import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;

/** The real checkpoints of {@code testdata/corpus}. */
public final class Corpus {
  public static final Path ROOT = Path.of(System.getProperty("reshard.testdata"), "corpus");

  private Corpus() {}

  /** Every torch file. */
  public static List<Path> torchFiles() {
    try (Stream<Path> all = Files.walk(ROOT)) {
      return all.filter(p -> p.toString().endsWith(".pt") || p.toString().endsWith(".bin"))
          .sorted()
          .toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Opens a local file. */
  public static RangedFile open(Path path) throws IOException {
    LocalSourceStore store = new LocalSourceStore();
    for (FileStat file : store.list(path.toAbsolutePath().getParent().toString()).files()) {
      if (file.name().equals(path.getFileName().toString())) {
        return store.open(file);
      }
    }
    throw new NoSuchFileException(path.toString());
  }
}
