package io.github.reshard.testing;

import io.github.reshard.checkpoint.json.Json;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.math.BigDecimal;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/**
 * A checkpoint that DeepSpeed wrote, in the form that testdata/corpus/README.md describes.
 *
 * @param directory holds {@code source}, {@code case.json} and, perhaps, references and a truth
 * @param tag the tag of the source
 * @param sourceWorld data-parallel ranks of the source
 * @param expertParallelSize what has to divide the data-parallel size, 1 without experts
 */
public record GoldenCase(Path directory, String tag, int sourceWorld, int expertParallelSize) {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));

  /** Every case. */
  public static List<GoldenCase> all() {
    return Stream.of("corpus", "zero12", "zero3", "moe", "field")
        .map(TESTDATA::resolve)
        .filter(Files::isDirectory)
        .flatMap(GoldenCase::children)
        .filter(d -> Files.exists(d.resolve("case.json")))
        .map(GoldenCase::read)
        .toList();
  }

  public static GoldenCase of(String name) {
    return all().stream().filter(c -> c.name().equals(name)).findFirst().orElseThrow();
  }

  private static Stream<Path> children(Path directory) {
    try (Stream<Path> children = Files.list(directory)) {
      return children.filter(Files::isDirectory).sorted().toList().stream();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static GoldenCase read(Path directory) {
    try {
      Path about = directory.resolve("case.json");
      Map<?, ?> json =
          (Map<?, ?>) Json.parse(about.toString(), ByteBuffer.wrap(Files.readAllBytes(about)));
      List<?> arguments = (List<?>) json.get("train_args");
      int ep = arguments.indexOf("--ep");
      return new GoldenCase(
          directory,
          (String) json.get("tag"),
          ((BigDecimal) json.get("source_world")).intValueExact(),
          ep < 0 ? 1 : Integer.parseInt(arguments.get(ep + 1).toString()));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  public String name() {
    return directory.getFileName().toString();
  }

  /** Whether it is of ZeRO-3, whose padding is not data. */
  public boolean isSharded() {
    return name().startsWith("z3");
  }

  public Path source() {
    return directory.resolve("source");
  }

  public Path reference(int worldSize) {
    return directory.resolve("reference-" + worldSize);
  }

  /** The world sizes at which DeepSpeed's own output is there. */
  public List<Integer> referenceWorlds() {
    return IntStream.rangeClosed(1, 64)
        .filter(m -> Files.isDirectory(reference(m)))
        .boxed()
        .toList();
  }

  public Path truth() {
    return directory.resolve("truth.safetensors");
  }

  @Override
  public String toString() {
    return name();
  }
}
