package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.format.ExportRequest;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.checkpoint.safetensors.SafetensorsFile;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.NearestEven;
import io.github.reshard.testing.Safetensors;
import io.github.reshard.testing.SourceCopy;
import io.github.reshard.testing.TorchContent;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/** Exports against DeepSpeed's own full tensors (truth.safetensors), independent of the files. */
class ExportTest {
  private static final long PART_BYTES = 1 << 10;
  private static final String MASTER = ".fp32";

  @TempDir Path directory;

  private static ExportOptions options(Path input, Path output, String dtype) {
    PipelineOptions of = Resharding.options(input, output, 1);
    PipelineOptionsFactory.register(ExportOptions.class);
    ExportOptions options = of.as(ExportOptions.class);
    options.setDtype(dtype);
    return options;
  }

  private ReshardReport export(Path input, Consumer<ExportOptions> set) {
    ExportOptions options = options(input, directory.resolve("out"), "asSaved");
    set.accept(options);
    return ExportPipeline.run(options, Resharding.SILENT);
  }

  private Map<String, byte[]> written() {
    return Safetensors.read(directory.resolve("out/model.safetensors"));
  }

  private static Map<String, byte[]> masters(GoldenCase golden) {
    Map<String, byte[]> masters = new TreeMap<>();
    Safetensors.read(golden.directory().resolve("truth.safetensors"))
        .forEach(
            (name, bytes) -> {
              if (name.endsWith(MASTER)) {
                masters.put(name.substring(0, name.length() - MASTER.length()), bytes);
              }
            });
    return masters;
  }

  static Stream<GoldenCase> withTruth() {
    return GoldenCase.all().stream()
        .filter(golden -> Files.exists(golden.directory().resolve("truth.safetensors")));
  }

  private static ReshardPlan exportWithoutBeam(GoldenCase golden, Path output, DType dtype) {
    return WithoutBeam.run(source -> plan(source, golden, Optional.of(dtype)), output);
  }

  private static ReshardPlan plan(LocalSourceStore source, GoldenCase golden, Optional<DType> dtype)
      throws IOException {
    CheckpointFiles files =
        CheckpointFiles.discover(source, golden.source().toString(), Optional.empty());
    return Formats.export(
        Formats.zero(source, files),
        golden.sourceWorld(),
        new ExportRequest(
            dtype,
            ExportRequest.DEFAULT_SHARD_BYTES,
            Optional.empty(),
            Optional.empty(),
            false,
            PART_BYTES));
  }

  @ParameterizedTest
  @MethodSource("withTruth")
  void mastersAndTheirCastsAreThoseThatDeepSpeedGathers(GoldenCase golden) {
    Map<String, byte[]> masters = masters(golden);

    for (DType dtype : new DType[] {DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16}) {
      Path output = directory.resolve(dtype.torchName());
      exportWithoutBeam(golden, output, dtype);

      Map<String, byte[]> written = Safetensors.read(output.resolve("model.safetensors"));
      masters.forEach(
          (name, master) ->
              assertThat(NearestEven.firstThatIsNot(dtype, written.get(name), master))
                  .as(name)
                  .isEqualTo(-1));
    }
  }

  /** How masters are cut among ranks and how the module's weights lie have nothing in common. */
  static Stream<GoldenCase> withWeightsOfTheirOwn() {
    Set<String> refused = Set.of("tp2-z1", "view-in-module-z2");
    return GoldenCase.all().stream()
        .filter(golden -> !golden.isSharded() && !refused.contains(golden.name()));
  }

  @ParameterizedTest
  @MethodSource("withWeightsOfTheirOwn")
  void theModulesWeightsAreTheMastersCast(GoldenCase golden) throws IOException {
    Path weights = directory.resolve("weights");
    Path masters = directory.resolve("masters");
    WithoutBeam.run(source -> plan(source, golden, Optional.empty()), weights);
    exportWithoutBeam(golden, masters, DType.FLOAT32);

    Path file = weights.resolve("model.safetensors");
    Map<String, byte[]> found = Safetensors.read(file);
    Map<String, byte[]> expected = Safetensors.read(masters.resolve("model.safetensors"));
    assertThat(found).containsOnlyKeys(expected.keySet());
    SafetensorsFile header;
    LocalSourceStore store = new LocalSourceStore();
    try (RangedFile open =
        store.open(
            store.list(weights.toString()).files().stream()
                .filter(stat -> stat.name().equals("model.safetensors"))
                .findFirst()
                .orElseThrow())) {
      header = SafetensorsFile.read(open);
    }
    int compared = 0;
    for (Map.Entry<String, byte[]> tensor : found.entrySet()) {
      DType dtype = header.tensors().get(tensor.getKey()).dtype();
      byte[] master = expected.get(tensor.getKey());
      if (dtype.bytes() == 2 || dtype == DType.FLOAT32) {
        assertThat(NearestEven.firstThatIsNot(dtype, tensor.getValue(), master))
            .as(tensor.getKey())
            .isEqualTo(-1);
        compared++;
      } else {
        assertThat(tensor.getValue()).as(tensor.getKey()).isEqualTo(master);
      }
    }
    assertThat(compared).isPositive();
  }

  @ParameterizedTest
  @CsvSource({
    "z1-bf16, asSaved",
    "z2-fp32-twogroups, asSaved",
    "z2-fp16-dynamic, bf16",
    "z2-freeze-tie, asSaved",
    "z3-bf16-subgroups, asSaved",
    "z3-freeze-tie, fp16",
    "z1-sgd, fp32"
  })
  void everyStateOfTheOptimizerIsThatOfDeepSpeed(String name, String dtype) throws IOException {
    GoldenCase golden = GoldenCase.of(name);

    export(
        golden.source(),
        options -> {
          options.setDtype(dtype);
          options.setOptimizer(true);
        });

    Map<String, byte[]> tensors = new TreeMap<>(written());
    tensors.putAll(Safetensors.read(directory.resolve("out/optimizer.safetensors")));
    JsonNode state = new ObjectMapper().readTree(directory.resolve("out/optimizer.json").toFile());
    Map<String, byte[]> found = new TreeMap<>();
    state
        .get("parameters")
        .properties()
        .forEach(
            parameter ->
                parameter
                    .getValue()
                    .get("states")
                    .properties()
                    .forEach(
                        of ->
                            found.put(
                                parameter.getKey() + "." + of.getKey(),
                                tensors.get(of.getValue().asText()))));
    Map<String, byte[]> truth = Safetensors.read(golden.directory().resolve("truth.safetensors"));
    assertThat(found).containsOnlyKeys(truth.keySet());
    truth.forEach((tensor, bytes) -> assertThat(found.get(tensor)).as(tensor).isEqualTo(bytes));
    assertThat(state.get("version").asInt()).isEqualTo(1);
    assertThat(state.get("param_groups").get(0).get("options").get("lr").asDouble()).isPositive();
  }

  @Test
  void anOptimizerThatCannotBeWrittenIsRefused() {
    assertThatThrownBy(
            () ->
                export(GoldenCase.of("moe-z2-ep2").source(), options -> options.setOptimizer(true)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("states of experts");
    assertThatThrownBy(
            () ->
                export(
                    GoldenCase.of("z1-bf16").source(),
                    options -> {
                      options.setOptimizer(true);
                      options.setOnly("blocks*");
                    }))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("--only leaves some out");
  }

  @ParameterizedTest
  @CsvSource({
    "z1-bf16, fp32, FLOAT32",
    "z2-fp16-dynamic, asSaved, FLOAT16",
    "z2-freeze-tie, bf16, BFLOAT16",
    "z3-bf16-subgroups, asSaved, BFLOAT16",
    "z3-freeze-tie, fp32, FLOAT32"
  })
  void theGraphWritesAndProvesThem(String name, String asked, DType dtype) throws IOException {
    GoldenCase golden = GoldenCase.of(name);

    ReshardReport report = export(golden.source(), options -> options.setDtype(asked));

    Map<String, byte[]> written = written();
    masters(golden)
        .forEach(
            (parameter, master) ->
                assertThat(NearestEven.firstThatIsNot(dtype, written.get(parameter), master))
                    .as(parameter)
                    .isEqualTo(-1));
    assertThat(report.tag()).isEqualTo("global_step3");
    assertThat(report.proven()).anyMatch(proof -> proof.contains("have the CRC-32"));
    assertThat(directory.resolve("out").resolve(CheckpointFiles.MANIFEST)).exists();
  }

  @Test
  void frozenWeightsAreThereBuffersStayAndTiedWeightsAreWrittenOnce() {
    ReshardReport report =
        export(GoldenCase.of("z2-freeze-tie").source(), options -> options.setDtype("bf16"));

    Map<String, byte[]> written = written();
    assertThat(written).containsKeys("emb.weight", "blocks.0.fc.weight", "blocks.0.ln.bias");
    assertThat(written).doesNotContainKey("head.weight");
    assertThat(written.get("scale").length % 4).isZero();
    assertThat(report.notes()).anyMatch(note -> note.contains("head.weight is tied to emb.weight"));
  }

  @Test
  void expertsHaveTheirGlobalNames() {
    export(GoldenCase.of("moe-z2-ep2").source(), options -> {});

    assertThat(written())
        .containsKeys(
            "moe.deepspeed_moe.experts.deepspeed_experts.0.fc.weight",
            "moe.deepspeed_moe.experts.deepspeed_experts.1.fc.weight");
  }

  @Test
  void shardsHaveAnIndexAndHoldEveryTensorOnce() throws IOException {
    GoldenCase golden = GoldenCase.of("z3-fp32");
    export(golden.source(), options -> options.setShardBytes(3000));

    Map<String, byte[]> written = new TreeMap<>();
    int files = 0;
    try (Stream<Path> found = Files.list(directory.resolve("out"))) {
      for (Path file : found.filter(p -> p.toString().endsWith(".safetensors")).toList()) {
        written.putAll(Safetensors.read(file));
        files++;
      }
    }
    assertThat(files).isGreaterThan(2);
    assertThat(Files.readString(directory.resolve("out/model.safetensors.index.json")))
        .contains("\"emb.weight\": \"model-0000");
    masters(golden).forEach((name, master) -> assertThat(written).containsEntry(name, master));
  }

  @Test
  void onlyAndStripPrefixChooseNames() {
    export(
        GoldenCase.of("z3-bf16-subgroups").source(),
        options -> {
          options.setOnly("blocks.0.*");
          options.setStripPrefix("blocks.0.");
        });

    assertThat(written().keySet())
        .containsExactlyInAnyOrder("fc.bias", "fc.weight", "ln.bias", "ln.weight", "out.weight");
  }

  @Test
  void whatIsNotThereIsRefusedAndNothingIsWritten() {
    Path source = GoldenCase.of("z1-bf16").source();

    assertThatThrownBy(() -> export(source, options -> options.setOnly("nothing*")))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("--only=nothing*");
    assertThatThrownBy(() -> export(source, options -> options.setStripPrefix("x.")))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("--stripPrefix=x.");
    assertThat(directory.resolve("out")).doesNotExist();
  }

  @Test
  void anOutputIsReplacedOnlyWhenAskedAndOnlyAnExport() throws IOException {
    Path source = GoldenCase.of("z1-bf16").source();
    export(source, options -> options.setShardBytes(1000));

    assertThatThrownBy(() -> export(source, options -> {}))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("is not empty");
    Path own = Files.writeString(directory.resolve("out/my.safetensors"), "mine");
    assertThatThrownBy(() -> export(source, options -> options.setOverwrite(true)))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("my.safetensors");
    Files.delete(own);
    export(source, options -> options.setOverwrite(true));
    assertThat(directory.resolve("out/model.safetensors")).exists();
    assertThat(directory.resolve("out/model.safetensors.index.json")).doesNotExist();
  }

  @Test
  void damageIsFoundWhereverSomethingIsTakenFrom() throws IOException {
    GoldenCase golden = GoldenCase.of("z3-bf16-subgroups");
    SourceCopy copy = SourceCopy.of(golden, directory.resolve("copy"));
    Path file = copy.file("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt");
    for (String storage : partitions(file)) {
      copy.damage(file.getFileName().toString(), storage, ExportTest::flip);
    }

    assertThatThrownBy(() -> export(copy.directory(), options -> {}))
        .satisfies(
            failure ->
                assertThat(Resharding.cause(failure, RefusedException.class))
                    .hasMessageContaining("CRC-32"));
    assertThat(directory.resolve("out")).doesNotExist();
  }

  private static void flip(ByteBuffer bytes) {
    bytes.put(2, (byte) (bytes.get(2) ^ 4));
  }

  /** Its moments, which are not read, and its masters, which are. */
  private static List<String> partitions(Path file) throws IOException {
    return TorchContent.read(file).file().entries().stream()
        .filter(entry -> entry.name().startsWith("data/") && entry.bytes() > 64)
        .map(entry -> entry.name().substring("data/".length()))
        .toList();
  }

  @Test
  void theConfigurationBesideTheTagIsCarriedOver() throws IOException {
    SourceCopy copy = SourceCopy.of(GoldenCase.of("z2-freeze-tie"), directory.resolve("copy"));
    Files.writeString(copy.directory().resolve("config.json"), "{\"tie_word_embeddings\": false}");

    ReshardReport report = export(copy.directory(), options -> {});

    // head.weight is no name of an output layer in Transformers.
    assertThat(report.notes()).noneMatch(note -> note.contains("no config.json"));
    assertThat(directory.resolve("out/config.json")).hasContent("{\"tie_word_embeddings\": false}");
  }
}
