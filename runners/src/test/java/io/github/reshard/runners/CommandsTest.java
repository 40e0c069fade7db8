package io.github.reshard.runners;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** {@code inspect}, {@code verify} and {@code plan} on what DeepSpeed wrote. */
class CommandsTest {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));
  private static final Path ZERO2 = TESTDATA.resolve("corpus/z2-bf16-clip/source");
  private static final String SHARD_3 =
      "global_step3/bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt";

  @TempDir Path scratch;
  private final ByteArrayOutputStream out = new ByteArrayOutputStream();
  private final ByteArrayOutputStream err = new ByteArrayOutputStream();

  private int run(String... args) {
    return new Main(
            new PrintStream(out, true, StandardCharsets.UTF_8),
            new PrintStream(err, true, StandardCharsets.UTF_8),
            Map.of(),
            "")
        .run(args);
  }

  private String printed() {
    return out.toString(StandardCharsets.UTF_8);
  }

  @ParameterizedTest
  @CsvSource({
    "corpus/z1-bf16, 4",
    "corpus/z2-bf16-clip, 4",
    "corpus/z3-fp32, 2",
    "corpus/pp2-z1, 1",
    "moe/moe-z2-fp32-split, 2"
  })
  void verifyFindsTheSameStateEqualAtAnotherWorldSize(String name, int ranks) {
    int code =
        run(
            "verify",
            "--input=" + TESTDATA.resolve(name).resolve("source"),
            "--output=" + TESTDATA.resolve(name).resolve("reference-" + ranks));

    assertThat(printed()).startsWith("EQUAL: both hold the same training state");
    assertThat(code).isEqualTo(0);
  }

  @Test
  void verifyFindsTheSameStateEqualAtAnotherStage() {
    Path sharded = scratch.resolve("sharded");
    assertThat(
            run(
                "--input=" + ZERO2,
                "--output=" + sharded,
                "--targetWorldSize=3",
                "--targetStage=3"))
        .isEqualTo(0);

    int code = run("verify", "--input=" + ZERO2, "--output=" + sharded);

    assertThat(printed()).contains("EQUAL: both hold the same training state");
    assertThat(code).isEqualTo(0);
  }

  @Test
  void verifyLocatesTheFirstDifferenceAndExitsWith5() throws IOException {
    Path other = copyOf(ZERO2);
    flip(other.resolve(SHARD_3), "1", 8);

    int code = run("verify", "--input=" + ZERO2, "--output=" + other);

    assertThat(printed())
        .startsWith("DIFFERENT")
        .contains(
            "48 tensors of 12 parameters, 47 of them equal",
            "'exp_avg' of blocks.1.ln.weight (mp rank 0): first at element 5: 4.328309E-4 in"
                + " --input, 4.3283092E-4 in --output");
    assertThat(code).isEqualTo(5);
  }

  @Test
  void verifyHasItsFindingsForMachines() throws IOException {
    Path other = copyOf(ZERO2);
    flip(other.resolve(SHARD_3), "1", 8);

    run("verify", "--input=" + ZERO2, "--output=" + other, "--json");

    JsonNode json = new ObjectMapper().readTree(printed());
    assertThat(json.get("equal").asBoolean()).isFalse();
    assertThat(json.get("verdicts")).hasSize(48);
    assertThat(json.get("verdicts"))
        .filteredOn(verdict -> verdict.get("element").asLong() >= 0)
        .singleElement()
        .satisfies(
            verdict -> {
              assertThat(verdict.get("state").asText()).isEqualTo("exp_avg");
              assertThat(verdict.get("element").asLong()).isEqualTo(5);
            });
  }

  @ParameterizedTest
  @CsvSource({
    "corpus/z2-bf16-clip, 2, 6, 1, 3174",
    "corpus/z3-fp32, 3, 4, 1, 3174",
    "corpus/pp2-z1, 1, 2, 2, ",
    "moe/moe-z2-fp32-split, 2, 4, 2, 808"
  })
  void inspectTellsMachinesWhatACheckpointIs(
      String name, int stage, int ranks, int models, Long elements) throws IOException {
    int code = run("inspect", "--input=" + TESTDATA.resolve(name).resolve("source"), "--json");

    assertThat(code).isEqualTo(0);
    ObjectNode json = (ObjectNode) new ObjectMapper().readTree(printed());
    boolean isGrid = json.get("modelParallelRanks").asInt() > 1;
    assertThat(json.remove("gpus") != null).as("the page draws a grid").isEqualTo(isGrid);
    assertThat(json.fieldNames())
        .toIterable()
        .containsExactly(
            "reshard",
            "directory",
            "tag",
            "zeroStage",
            "wrapper",
            "optimizer",
            "dtype",
            "deepspeed",
            "dataParallelRanks",
            "modelParallelRanks",
            "pipelineDegree",
            "tensorDegree",
            "sequenceDegree",
            "grids",
            "files",
            "bytes",
            "buffers",
            "frozen",
            "oddities",
            "refusal",
            "modelValues",
            "optimizerValues",
            "states",
            "elements",
            "models",
            "targetWorldSize");
    assertThat(json.get("refusal").asText()).isEmpty();
    assertThat(json.get("zeroStage").asInt()).isEqualTo(stage);
    assertThat(json.get("dataParallelRanks").asInt()).isEqualTo(ranks);
    assertThat(json.get("models")).hasSize(models);
    if (elements != null) {
      assertThat(json.get("elements").asLong()).isEqualTo(elements);
    }
    assertThat(json.get("states")).isNotEmpty();
    for (JsonNode model : json.get("models")) {
      assertThat(heldElements(model)).isEqualTo(ownElements(model));
    }
  }

  /** Elements that ranks hold, over all of them. */
  private static long heldElements(JsonNode model) {
    long held = 0;
    for (JsonNode rank : model.get("before")) {
      for (JsonNode partition : rank.get("partitions")) {
        for (JsonNode run : partition.get("runs")) {
          held += run.get(2).asLong();
        }
      }
    }
    return held;
  }

  private static long ownElements(JsonNode model) {
    long own = 0;
    for (JsonNode parameter : model.get("parameters")) {
      own += parameter.get("elements").asLong();
    }
    return own;
  }

  @Test
  void aFileUrlIsAPath() {
    String url = "file://" + ZERO2;

    assertThat(run("inspect", "--input=" + url)).isEqualTo(0);
    assertThat(printed()).startsWith(ZERO2 + "/global_step3\n");
    assertThat(run("verify", url, ZERO2.toString())).isEqualTo(0);
    assertThat(run("ensure", url, "--targetWorldSize=6")).isEqualTo(0);
    assertThat(printed()).endsWith("\n" + ZERO2 + "\n");
    assertThat(run("ensure", url, "--targetWorldSize=4", "--output=file://" + scratch + "/out"))
        .isEqualTo(0);
    assertThat(printed()).endsWith("\n" + scratch + "/out\n");
  }

  @Test
  void inspectWritesAPageThatNeedsNothingElse() throws IOException {
    Path page = scratch.resolve("page.html");

    int code = run("inspect", "--input=" + ZERO2, "--targetWorldSize=4", "--html=" + page);

    assertThat(code).isEqualTo(0);
    assertThat(Files.readString(page))
        .startsWith("<!doctype html>")
        .contains("\"after\":[{\"rank\":0")
        .doesNotContain("/*DATA*/", "src=", "href=", "http://", "https://");
  }

  @ParameterizedTest
  @ValueSource(
      strings = {"corpus/z2-bf16-clip", "corpus/z3-fp32", "corpus/pp2-z1", "moe/moe-z2-fp32-split"})
  void doctorReadsAndProvesAWholeCheckpoint(String name) throws IOException {
    int code = run("doctor", "--input=" + TESTDATA.resolve(name).resolve("source"), "--json");

    assertThat(err.toString(StandardCharsets.UTF_8)).isEmpty();
    assertThat(code).isEqualTo(0);
    JsonNode json = new ObjectMapper().readTree(printed());
    assertThat(json.get("sourceWorldSize")).isEqualTo(json.get("targetWorldSize"));
    assertThat(json.get("bytesRead").asLong()).isPositive();
    assertThat(json.get("proven")).isNotEmpty();
  }

  @Test
  void doctorFindsOneFlippedBitThatNoMetadataShows() throws IOException {
    Path broken = copyOf(ZERO2);
    flip(broken.resolve(SHARD_3), "1", 8);

    assertThat(run("inspect", "--input=" + broken)).isEqualTo(0);
    assertThat(run("doctor", "--input=" + broken)).isEqualTo(3);
    assertThat(err.toString(StandardCharsets.UTF_8)).contains("rank_3_mp_rank_00", "CRC-32");
  }

  @Test
  void doctorWritesNothingAndSaysSo() throws IOException {
    Path source = copyOf(ZERO2);

    assertThat(run("doctor", source.toString())).isEqualTo(0);
    assertThat(printed())
        .startsWith("Whole: global_step3 can be resharded")
        .contains("nothing written", "6 data-parallel ranks", "proven");
    try (Stream<Path> there = Files.walk(scratch)) {
      assertThat(there.map(path -> path.getFileName().toString()))
          .noneMatch(name -> name.startsWith(".reshard") || name.endsWith("manifest.json"));
    }
    assertThat(run("doctor", "--input=" + source, "--output=" + scratch)).isEqualTo(2);
  }

  @Test
  void theMainJobReportsAsJson() throws IOException {
    Path output = scratch.resolve("out");

    assertThat(run(ZERO2.toString(), output.toString(), "--targetWorldSize=2", "--json"))
        .isEqualTo(0);

    JsonNode json = new ObjectMapper().readTree(printed());
    assertThat(json.get("tag").asText()).isEqualTo("global_step3");
    assertThat(json.get("targetWorldSize").asInt()).isEqualTo(2);
    assertThat(json.get("output").asText()).isEqualTo(output.toString());
    assertThat(json.get("notes").isArray()).isTrue();
  }

  @Test
  void gpusAreDividedByTheDegreesOfTheCheckpoint() throws IOException {
    String input = "--input=" + TESTDATA.resolve("corpus/pp2-z1/source");
    Path output = scratch.resolve("out");

    assertThat(run(input, "--output=" + output, "--gpus=6", "--json")).isEqualTo(0);
    JsonNode json = new ObjectMapper().readTree(printed());
    assertThat(json.get("targetWorldSize").asInt()).isEqualTo(3);
    assertThat(json.get("modelParallelRanks").asInt()).isEqualTo(2);

    assertThat(run(input, "--output=" + scratch.resolve("odd"), "--gpus=5")).isEqualTo(3);
    assertThat(err.toString(StandardCharsets.UTF_8))
        .contains(
            "takes 2 GPUs (2 pipeline-parallel x 1 tensor-parallel), and 5 GPUs cannot be divided",
            "Use 4 or 6");
    assertThat(scratch.resolve("odd")).doesNotExist();
  }

  @Test
  void gpusAreDataParallelRanksWhereTheyAreAll() {
    assertThat(run("plan", "--input=" + ZERO2, "--gpus=4")).isEqualTo(0);
    assertThat(printed()).contains("6 → 4 data-parallel ranks");
  }

  @Test
  void planSaysWhatWouldBeWrittenAndTouchesNothing() throws IOException {
    Path output = scratch.resolve("output");

    int code = run("plan", "--input=" + ZERO2, "--output=" + output, "--targetWorldSize=4");

    assertThat(code).isEqualTo(0);
    assertThat(printed())
        .contains(
            "6 → 4 data-parallel ranks; nothing was touched",
            "global_step3/bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt",
            "parts in 5 files");
    assertThat(output).doesNotExist();
  }

  private Path copyOf(Path from) throws IOException {
    Path to = scratch.resolve("copy");
    try (Stream<Path> all = Files.walk(from)) {
      for (Path path : all.toList()) {
        Files.copy(path, to.resolve(from.relativize(path).toString()));
      }
    }
    return to;
  }

  @Test
  void exportWritesWeightsAndSaysSo() {
    Path output = scratch.resolve("model");

    assertThat(run("export", "--input=" + ZERO2, "--output=" + output, "--dtype=bf16"))
        .isEqualTo(0);
    assertThat(printed()).startsWith("Exported ").contains("tensors");
    assertThat(output.resolve("model.safetensors")).isNotEmptyFile();

    assertThat(run("export", "--input=" + ZERO2, "--output=" + output)).isEqualTo(4);
    assertThat(run("export", "--input=" + ZERO2, "--output=" + output, "--dtype=fp8")).isEqualTo(2);
    assertThat(run("export", "--input=" + ZERO2, "--output=" + output + "2", "--only=none"))
        .isEqualTo(3);
    assertThat(run("--input=" + ZERO2, "--output=" + output + "2", "--only=x", "--gpus=1"))
        .isEqualTo(2);
  }

  @Test
  void cleanupRemovesWhatADeadRunLeftAndSaysSo() throws IOException {
    Path output = copyOf(ZERO2);
    Path left = Files.createDirectories(output.resolve(".reshard-global_step3.unpublished/1234"));
    Files.writeString(left.resolve("part"), "12345");

    assertThat(run("cleanup", "--output=" + output)).isEqualTo(0);
    assertThat(printed())
        .startsWith("Removed 5 B in 1 file")
        .contains(output.resolve(".reshard-global_step3.unpublished").toString());
    assertThat(output.resolve(".reshard-global_step3.unpublished")).doesNotExist();
    assertThat(output.resolve("global_step3")).isNotEmptyDirectory();

    assertThat(run("cleanup", "--output=" + output)).isEqualTo(0);
    assertThat(printed()).contains(output + ": nothing is left over");
  }

  @Test
  void cleanupRefusesWhatOnlyARerunRepairs() throws IOException {
    Path marker = scratch.resolve(".reshard-global_step3.publishing");
    Files.writeString(marker, "");

    assertThat(run("cleanup", "--output=" + scratch)).isEqualTo(4);
    assertThat(err.toString(StandardCharsets.UTF_8)).contains("Run the same reshard again");
    assertThat(marker).exists();
  }

  @Test
  void cleanupTakesNoOptionOfOtherCommands() {
    assertThat(run("cleanup", "--output=" + scratch, "--overwrite")).isEqualTo(2);
    assertThat(run("cleanup")).isEqualTo(2);
  }

  /** Changes one bit of the storage {@code key}, at byte {@code at} of it. */
  private static void flip(Path path, String key, int at) throws IOException {
    LocalSourceStore store = new LocalSourceStore();
    FileStat stat =
        store.list(path.getParent().toString()).files().stream()
            .filter(file -> file.name().equals(path.getFileName().toString()))
            .findFirst()
            .orElseThrow();
    long payload;
    try (RangedFile file = store.open(stat)) {
      payload = TorchFile.read(file).storage(key).orElseThrow().payloadOffset();
    }
    byte[] bytes = Files.readAllBytes(path);
    bytes[(int) payload + at] ^= 1;
    Files.write(path, bytes);
  }
}
