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
          Map.entry(
              "DcpJobs <-> Job",
              "the kind of job that --inputFormat or --outputFormat asks for makes a Job"),
          Map.entry(
              "DcpJobs <-> Source",
              "a template is a source, and a source says how a distributed checkpoint was refused"),
          Map.entry(
              "Job <-> UniversalJobs", "the kind of job that --outputFormat asks for makes a Job"),
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
  void classesThatKnowEachOtherHaveAReason() {
    PIPELINE.assertPairs(PAIRS);
  }
}
