package io.github.reshard.pipeline;

import io.github.reshard.testing.Architecture;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

/** The pipelines know the stores, not the other way round. */
class LayersTest {
  private static final Architecture PIPELINE = Architecture.ofModuleOf(ReshardPipeline.class);

  private static final Map<String, String> PAIRS =
      Map.ofEntries(
          Map.entry("Job <-> TemplateJob", "the kind of job that --template asks for makes a Job"),
          Map.entry(
              "storage.GcsObjectStore <-> storage.GcsUpload",
              "an upload is one write of its store"));

  @Test
  void theStoresDoNotKnowThePipelines() {
    PIPELINE.assertLayers(List.of("storage", ""));
  }

  @Test
  void packagesFormNoCircle() {
    PIPELINE.assertNoCircles();
  }

  @Test
  void noFormatIsNamedOutsideOfItsPackage() {
    PIPELINE.assertKnowNoFormat(Map.of());
  }

  @Test
  void classesThatKnowEachOtherHaveAReason() {
    PIPELINE.assertPairs(PAIRS);
  }
}
