package io.github.reshard.checkpoint;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/**
 * The layers of the module: a package imports only what stands before it in {@link #LAYERS}, so
 * there is no circle between packages. Read off the sources, so that what only a comment names
 * counts as well.
 */
class LayersTest {
  private static final Path ROOT =
      Path.of(System.getProperty("reshard.testdata"))
          .toAbsolutePath()
          .normalize()
          .resolveSibling("checkpoint/src/main/java/io/github/reshard/checkpoint");

  private static final List<String> LAYERS =
      List.of(
          "pickle",
          "storage",
          "json",
          "torch",
          "state",
          "parallel",
          "safetensors",
          "plan",
          "format",
          "copy",
          "deepspeed",
          "zero12",
          "zero3", // StagePlanner still turns one stage's files to the other's
          "dcp",
          "shards",
          "universal",
          "weights",
          "planner",
          "follow");

  /**
   * The formats' own packages, of which none knows another but for those that are made of it:
   * shards are of ZeRO, and a Universal Checkpoint is read as ZeRO.
   */
  private static final Set<String> APART =
      Set.of(
          "dcp -> zero12",
          "dcp -> zero3",
          "weights -> zero12",
          "weights -> zero3",
          "weights -> dcp",
          "weights -> shards",
          "weights -> universal",
          "universal -> dcp",
          "universal -> shards",
          "shards -> dcp",
          "follow -> zero12",
          "follow -> zero3");

  private static final Pattern IMPORT =
      Pattern.compile(
          "import (?:static )?io\\.github\\.reshard\\.checkpoint\\.([a-z0-9]+)\\.([A-Z]\\w*)");

  private static List<Path> sources() {
    try (Stream<Path> files = Files.walk(ROOT)) {
      return files.filter(file -> file.toString().endsWith(".java")).sorted().toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  @Test
  void everyPackageHasAPlace() throws IOException {
    try (Stream<Path> packages = Files.list(ROOT).filter(Files::isDirectory)) {
      assertThat(packages.map(p -> p.getFileName().toString()))
          .containsExactlyInAnyOrderElementsOf(LAYERS);
    }
  }

  @Test
  void importsPointOneWay() throws IOException {
    Set<String> broken = new TreeSet<>();
    for (Path file : sources()) {
      String from = file.getParent().equals(ROOT) ? "" : file.getParent().getFileName().toString();
      String name = file.getFileName().toString().replace(".java", "");
      Matcher imports = IMPORT.matcher(Files.readString(file));
      while (imports.find()) {
        String to = imports.group(1);
        boolean up = !to.equals(from) && LAYERS.indexOf(to) >= LAYERS.indexOf(from);
        if (up || APART.contains(from + " -> " + to)) {
          broken.add("%s/%s -> %s.%s".formatted(from, name, to, imports.group(2)));
        }
      }
    }
    assertThat(broken).isEmpty();
  }
}
