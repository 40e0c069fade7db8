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
 */
record GoldenCase(Path directory, String tag, int sourceWorld) {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));

  /** Every case of ZeRO-1 and 2. */
  static List<GoldenCase> all() {
    return Stream.of("corpus", "zero12")
        .map(TESTDATA::resolve)
        .filter(Files::isDirectory)
        .flatMap(GoldenCase::children)
        .filter(d -> d.getFileName().toString().matches("(z1|z2|pp2-z1|tp2-z1).*"))
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
      return new GoldenCase(directory, json.get("tag").asText(), json.get("source_world").asInt());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  String name() {
    return directory.getFileName().toString();
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
