package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.plan.WholeFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.DegreeChange;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.Publishing;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import io.github.reshard.pipeline.storage.Stores;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.transforms.JobConfig;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.stream.StreamSupport;
import org.apache.beam.runners.dataflow.DataflowRunner;
import org.apache.beam.runners.dataflow.options.DataflowPipelineOptions;
import org.apache.beam.sdk.Pipeline;
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

  private ReshardOptions options() throws IOException {
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
    return options.as(ReshardOptions.class);
  }

  /** Stages the job of a case and returns its description. */
  private JsonNode stage(GoldenCase golden, int worldSize) throws IOException {
    bucket.upload(golden.source(), golden.name() + "/source");
    ReshardOptions reshard = options();
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
    // The plan is found by its key, so no step waits for a side input.
    assertThat(kinds).contains("GroupByKey", "ParallelDo").doesNotContain("CollectionToSingleton");
  }

  /** The output waits for the job that is started from there. */
  @Test
  void aJobThatFollowsIsStreamingAndStagedAndHasItsOutput() throws IOException {
    CommandOptions follow = options().as(CommandOptions.class);
    follow.setInput("gs://" + BUCKET + "/followed/ckpt");
    follow.setOutput("gs://" + BUCKET + "/followed/out");
    follow.setTargetWorldSizes("3,4");
    assertThatThrownBy(() -> FollowPipeline.run(follow, () -> false, event -> {}))
        .isInstanceOf(JobStagedException.class);

    Map<String, byte[]> all = bucket.under("");
    JsonNode job = new ObjectMapper().readTree(all.get("job.json"));
    assertThat(job.path("type").asText()).isEqualTo("JOB_TYPE_STREAMING");
    assertThat(all.get("job.json").length).isLessThan((int) MOST_JOB_BYTES / 10);
    List<String> kinds = new ArrayList<>();
    List<String> names = new ArrayList<>();
    for (JsonNode step : job.path("steps")) {
      kinds.add(step.path("kind").asText());
      names.add(step.path("properties").path("user_name").path("value").asText());
    }
    // What is grouped closes by the plan's count: only the source's own restriction is keyed.
    assertThat(kinds).contains("SplittableProcessKeyed").doesNotContain("CollectionToSingleton");
    assertThat(names)
        .anyMatch(name -> name.startsWith("Follow/"))
        .anyMatch(name -> name.contains("UntilWhole"));
    assertThat(all.keySet()).contains("followed/out/.reshard-follow/lock");
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

  /** A ZeRO-2 checkpoint of one optimizer file for each rank and one model file. */
  private static ReshardPlan plan(int parameters, int ranks) {
    SplittableRandom random = new SplittableRandom(1);
    List<Parameter> all = new ArrayList<>();
    List<TorchFile.Entry> weightEntries = new ArrayList<>();
    List<ModuleWeight> weights = new ArrayList<>();
    long at = 1 << 20;
    for (int p = 0; p < parameters; p++) {
      long elements = random.nextLong(1 << 10, 1 << 26);
      all.add(new Parameter("model.layers." + p / 10 + ".part" + p % 10, List.of(elements), 0));
      weightEntries.add(
          new TorchFile.Entry("data/" + p, at - 64, at, 2 * elements, random.nextInt(), 0));
      weights.add(
          new ModuleWeight(
              DType.BFLOAT16, new Address(ranks, p, at), new Address(ranks, p, at + 64)));
      at += 2 * elements + 128;
    }
    FlatLayout layout =
        new FlatLayout(ranks, all, List.of(FlatLayout.Group.dense(parameters, ranks)), false);
    List<String> states = List.of("exp_avg", "exp_avg_sq", States.MASTER);
    Map<Partition, Address> partitions = new HashMap<>();
    List<SourceFile> sources = new ArrayList<>();
    List<TargetFile> targets = new ArrayList<>();
    long bytes = 4 * layout.bucketElements(0);
    for (int rank = 0; rank < ranks; rank++) {
      String name = "bf16_zero_pp_rank_" + rank + "_mp_rank_00_optim_states.pt";
      List<TorchFile.Entry> entries = new ArrayList<>();
      List<TargetFile.Entry> written = new ArrayList<>();
      for (int s = 0; s < states.size(); s++) {
        long begin = (1 << 16) + s * (bytes + 128);
        entries.add(
            new TorchFile.Entry("data/" + s, begin - 64, begin, bytes, random.nextInt(), 0));
        written.add(new TargetFile.Entry(Integer.toString(s), begin, bytes));
        partitions.put(new Partition(rank, 0, states.get(s)), new Address(rank, s, begin));
      }
      sources.add(new SourceFile(stat(name, 3 * bytes, random), entries, true));
      targets.add(new TargetFile("step/" + name, 3 * bytes, new WholeFile(rank), written));
    }
    sources.add(
        new SourceFile(stat("mp_rank_00_model_states.pt", at, random), weightEntries, true));
    Map<String, DType> types = new HashMap<>();
    states.forEach(state -> types.put(state, DType.FLOAT32));
    return new ReshardPlan(
        "gs://" + BUCKET + "/huge/step",
        "step",
        ranks,
        ranks,
        DegreeChange.NONE,
        sources,
        targets,
        List.of(
            new PartitionedModel(
                0,
                ParamId.NO_EXPERT,
                layout,
                layout,
                List.of(types),
                partitions,
                partitions,
                weights)),
        List.of(),
        List.of(),
        List.of(),
        List.of(),
        64 << 20);
  }

  private static FileStat stat(String name, long bytes, SplittableRandom random) {
    return new FileStat(
        "gs://" + BUCKET + "/huge/step/" + name,
        name,
        bytes,
        Long.toString(random.nextLong(1L << 50)),
        false);
  }

  /** Bytes of the description of a job for {@code plan}. */
  private int stagedBytes(ReshardPlan plan) throws IOException {
    ReshardOptions options = options();
    Pipeline pipeline = Pipeline.create(options);
    String output = "gs://" + BUCKET + "/huge";
    ReshardPipeline.apply(
        pipeline,
        plan,
        Stores.source(output, options),
        Stores.target(output, plan.tag(), TargetStore.LATEST, Publishing.of(false), options),
        new JobConfig(false, JobConfig.AS_SAVED, 0));
    pipeline.run();
    return bucket.under("").get("job.json").length;
  }

  private static int keptBytes() {
    return bucket.under("huge").entrySet().stream()
        .filter(file -> file.getKey().endsWith("/plan"))
        .mapToInt(file -> file.getValue().length)
        .max()
        .orElseThrow();
  }

  @Test
  void theJobOfAHugeCheckpointIsWithinTheLimits() throws IOException {
    int few = stagedBytes(plan(100, 16));
    int manyParameters = stagedBytes(plan(10_000, 16));
    int kept = keptBytes();
    int manyRanks = stagedBytes(plan(10_000, 1024));
    System.out.printf(
        "10,000 parameters on 16 ranks: the plan is %d bytes, the job %d; on 1,024 ranks: %d, %d%n",
        kept, manyParameters, keptBytes(), manyRanks);
    // The names that a run draws are compressed into every step: one and the same plan gives jobs
    // that differ by some 100 bytes. A tenth of a byte for each parameter more would be seen.
    assertThat(Math.abs(manyParameters - few)).isLessThan((10_000 - 100) / 10);
    assertThat(manyRanks).isLessThan((int) MOST_JOB_BYTES / 20);
    // What grows are a few bytes for each file and rank; nobody trains on as many GPUs.
    double forEachRank = (manyRanks - manyParameters) / (1024.0 - 16);
    assertThat(few + 100_000 * forEachRank).isLessThan(MOST_JOB_BYTES);
  }
}
