package io.github.reshard.pipeline;

import io.github.reshard.pipeline.FaultyProxy.Fate;
import java.io.IOException;
import java.nio.file.Path;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.TestInfo;
import org.junit.jupiter.api.io.TempDir;

/** A bucket {@code gs://} on an emulator with a proxy in front of it. */
abstract class EmulatedBucketCase {
  static final String BUCKET = "checkpoints";
  static final String MANIFEST = "reshard-manifest.json";

  static FaultyProxy proxy;
  static GcsTree bucket;

  @TempDir Path directory;

  /** Where in the bucket the files of this test are. */
  String name;

  @BeforeAll
  static void emulate() throws IOException {
    proxy = new FaultyProxy(Emulator.gcs().uri());
    System.setProperty("reshard.gcs.endpoint", proxy.uri().toString());
    bucket = new GcsTree(Emulator.gcs().uri(), BUCKET);
  }

  @AfterAll
  static void leave() {
    System.clearProperty("reshard.gcs.endpoint");
    proxy.close();
  }

  @BeforeEach
  void name(TestInfo test) {
    proxy.decide(request -> Fate.PASSES);
    name = test.getTestMethod().orElseThrow().getName() + "-" + System.nanoTime();
  }

  static String gs(String path) {
    return "gs://" + BUCKET + "/" + path;
  }
}
