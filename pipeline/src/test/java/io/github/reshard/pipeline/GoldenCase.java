package io.github.reshard.pipeline;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
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
record GoldenCase(Path directory, String tag, int sourceWorld, int expertParallelSize) {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));

  /** Every case. */
  static List<GoldenCase> all() {
    return Stream.of("corpus", "zero12", "zero3", "moe", "field")
        .map(TESTDATA::resolve)
        .filter(Files::isDirectory)
        .flatMap(GoldenCase::children)
        .filter(d -> Files.exists(d.resolve("case.json")))
        .map(GoldenCase::read)
        .toList();
  }

  static GoldenCase of(String name) {
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
      JsonNode json = new ObjectMapper().readTree(directory.resolve("case.json").toFile());
      int expertParallelSize = 1;
      JsonNode arguments = json.get("train_args");
      for (int i = 0; i + 1 < arguments.size(); i++) {
        if (arguments.get(i).asText().equals("--ep")) {
          expertParallelSize = arguments.get(i + 1).asInt();
        }
      }
      return new GoldenCase(
          directory,
          json.get("tag").asText(),
          json.get("source_world").asInt(),
          expertParallelSize);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  String name() {
    return directory.getFileName().toString();
  }

  /** Whether it is of ZeRO-3, whose padding is not data. */
  boolean isSharded() {
    return name().startsWith("z3");
  }

  Path source() {
    return directory.resolve("source");
  }

  Path reference(int worldSize) {
    return directory.resolve("reference-" + worldSize);
  }

  /** The world sizes at which DeepSpeed's own output is there. */
  List<Integer> referenceWorlds() {
    return IntStream.rangeClosed(1, 64)
        .filter(m -> Files.isDirectory(reference(m)))
        .boxed()
        .toList();
  }

  Path truth() {
    return directory.resolve("truth.safetensors");
  }

  @Override
  public String toString() {
    return name();
  }
}
