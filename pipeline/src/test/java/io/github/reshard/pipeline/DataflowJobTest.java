package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.StreamSupport;
import org.apache.beam.runners.dataflow.DataflowRunner;
import org.apache.beam.runners.dataflow.options.DataflowPipelineOptions;
import org.apache.beam.sdk.extensions.gcp.auth.NoopCredentialFactory;
import org.apache.beam.sdk.extensions.gcp.options.GcsOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * The job as Dataflow would get it: built, translated and staged by DataflowRunner itself into a
 * bucket of the emulator. Nothing here runs on Dataflow.
 */
class DataflowJobTest {
  private static final String BUCKET = "dataflow";

  /** What the service takes of a job's description (Dataflow quotas and limits). */
  private static final long MOST_JOB_BYTES = 10 << 20;

  private static GcsTree bucket;

  @TempDir Path directory;

  @BeforeAll
  static void start() {
    System.setProperty("reshard.gcs.endpoint", Emulator.gcs().uri().toString());
    bucket = new GcsTree(Emulator.gcs().uri(), BUCKET);
  }

  @AfterAll
  static void stop() {
    System.clearProperty("reshard.gcs.endpoint");
  }

  /** Stages the job of a case and returns its description. */
  private JsonNode stage(GoldenCase golden, int worldSize) throws IOException {
    bucket.upload(golden.source(), golden.name() + "/source");
    DataflowPipelineOptions options = PipelineOptionsFactory.as(DataflowPipelineOptions.class);
    options.setRunner(DataflowRunner.class);
    options.setProject("emulated");
    options.setRegion("europe-west4");
    options.setJobName("reshard");
    options.setCredentialFactoryClass(NoopCredentialFactory.class);
    options.as(GcsOptions.class).setGcsEndpoint(Emulator.gcs().uri() + "/storage/v1/");
    options.setTempLocation("gs://" + BUCKET + "/temp");
    options.setStagingLocation("gs://" + BUCKET + "/staging");
    options.setTemplateLocation("gs://" + BUCKET + "/job.json");
    // What is staged is not the point, that it is.
    Path program = Files.writeString(directory.resolve("program.jar"), "program");
    options.setFilesToStage(List.of(program.toString()));

    ReshardOptions reshard = options.as(ReshardOptions.class);
    reshard.setInput("gs://" + BUCKET + "/" + golden.name() + "/source");
    reshard.setOutput("gs://" + BUCKET + "/" + golden.name() + "/out");
    reshard.setTargetWorldSize(worldSize);
    assertThatThrownBy(() -> Resharding.run(reshard)).isInstanceOf(JobStagedException.class);
    return new ObjectMapper().readTree(bucket.under("").get("job.json"));
  }

  @Test
  void theJobIsBuiltAndStagedAndWithinTheLimits() throws IOException {
    GoldenCase golden = GoldenCase.of("pp2-z1");
    JsonNode job = stage(golden, 3);
    Map<String, byte[]> all = bucket.under("");
    assertThat(all.keySet()).anyMatch(name -> name.matches("staging/program-.*\\.jar"));
    assertThat(all.get("job.json").length).isLessThan((int) MOST_JOB_BYTES / 10);
    assertThat(job.path("type").asText()).isEqualTo("JOB_TYPE_BATCH");

    List<String> names = new ArrayList<>();
    List<String> kinds = new ArrayList<>();
    for (JsonNode step : job.path("steps")) {
      kinds.add(step.path("kind").asText());
      names.add(step.path("properties").path("user_name").path("value").asText());
    }
    assertThat(names).anyMatch(name -> name.startsWith("WriteParts/WritePart"));
    assertThat(kinds).contains("GroupByKey", "ParallelDo", "CollectionToSingleton");
  }

  @Test
  void nothingInTheJobNamesALocalFile() throws IOException {
    JsonNode job = stage(GoldenCase.of("z1-bf16"), 3);
    String options = job.path("environment").path("sdkPipelineOptions").toString();
    assertThat(options).contains("gs://" + BUCKET + "/z1-bf16/source");
    assertThat(StreamSupport.stream(job.path("steps").spliterator(), false).map(JsonNode::toString))
        .isNotEmpty()
        .noneMatch(step -> step.contains(directory.toString()));
  }
}
