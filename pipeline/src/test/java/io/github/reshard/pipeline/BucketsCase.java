package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;

/** Checkpoints in {@code gs://}, on an emulator with a proxy in front of it. */
abstract class BucketsCase extends EmulatedBucketCase {
  @BeforeAll
  static void small() {
    // The corpus is tiny; so are the parts, and the way of large files is taken.
    System.setProperty("reshard.smallRunBytes", "100");
  }

  @AfterAll
  static void usual() {
    System.clearProperty("reshard.smallRunBytes");
  }

  ReshardReport reshard(String input, String output, int worldSize) {
    return Resharding.run(Resharding.byOneWorker(options(input, output, worldSize)));
  }

  static ReshardOptions options(String input, String output, int worldSize) {
    ReshardOptions options = Resharding.options(Path.of("in"), Path.of("out"), worldSize);
    options.setInput(input);
    options.setOutput(output);
    options.setPartBytes(4000);
    return options;
  }

  static Map<String, byte[]> withoutManifest(Map<String, byte[]> tree) {
    Map<String, byte[]> rest = new TreeMap<>(tree);
    rest.keySet().removeIf(file -> file.endsWith(MANIFEST));
    return rest;
  }

  static void assertSameFiles(Map<String, byte[]> actual, Map<String, byte[]> expected) {
    assertThat(actual.keySet()).isEqualTo(expected.keySet());
    expected.forEach((file, bytes) -> assertThat(actual.get(file)).as(file).isEqualTo(bytes));
  }

  /** The case at {@code worldSize} ranks as the loop makes it, with a manifest that is empty. */
  Map<String, byte[]> resharded(GoldenCase golden, int worldSize) throws IOException {
    Path loop = directory.resolve("loop-" + System.nanoTime());
    WithoutBeam.reshard(golden.source(), loop, worldSize);
    return GcsTree.local(loop);
  }

  void assertResharded(String output, GoldenCase golden, int worldSize) throws IOException {
    Map<String, byte[]> expected = resharded(golden, worldSize);
    assertThat(expected.keySet()).anyMatch(file -> file.endsWith(MANIFEST));
    Map<String, byte[]> actual = bucket.under(output);
    assertThat(actual.keySet()).isEqualTo(expected.keySet());
    assertSameFiles(withoutManifest(actual), withoutManifest(expected));
  }
}
