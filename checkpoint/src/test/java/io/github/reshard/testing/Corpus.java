package io.github.reshard.testing;

import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
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

  /** The content of one file of each kind in each case, of those small enough for a fuzzer. */
  public static Stream<byte[]> smallTorchFiles() {
    Set<String> kinds = new HashSet<>();
    return torchFiles().stream()
        .filter(path -> path.toFile().length() < 24 * 1024)
        .filter(
            path ->
                kinds.add(
                    ROOT.relativize(path).getName(0)
                        + path.getFileName().toString().replaceAll("[0-9]", "")))
        .map(Corpus::content);
  }

  /** Every small safetensors file. */
  public static Stream<byte[]> smallSafetensors() {
    try (Stream<Path> all = Files.walk(ROOT.getParent())) {
      return all
          .filter(path -> path.toString().endsWith(".safetensors"))
          .filter(path -> path.toFile().length() < 16 * 1024)
          .sorted()
          .map(Corpus::content)
          .toList()
          .stream();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static byte[] content(Path path) {
    try {
      return Files.readAllBytes(path);
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
