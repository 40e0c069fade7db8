package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.SourceCopy;
import io.github.reshard.testing.TorchContent;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** From Universal Checkpoints, DeepSpeed's and ours, to native files. */
class UniversalInputTest {
  private static final Path UNIVERSAL =
      Path.of(System.getProperty("reshard.testdata"), "universal");

  @TempDir Path temp;

  private Path reshard(Path input, String output, int worldSize, Integer stage) {
    ReshardOptions options = Resharding.options(input, temp.resolve(output), worldSize);
    options.setTargetStage(stage);
    if (Files.isDirectory(input.resolve("global_step3_universal"))
        && !Files.exists(input.resolve("latest_universal"))) {
      options.setTag("global_step3_universal");
    }
    Resharding.run(options);
    return temp.resolve(output);
  }

  private Path universal(Path input, String output) {
    WithoutBeam.toUniversal(input, temp.resolve(output));
    return temp.resolve(output);
  }

  private static Map<String, byte[]> states(Path checkpoint) {
    return Reassembly.of(checkpoint, "global_step3").tensors();
  }

  private static Map<String, byte[]> replicated(Path checkpoint) {
    return Reassembly.of(checkpoint, "global_step3").replicated();
  }

  @ParameterizedTest
  @CsvSource({
    "0.19.8, z1-bf16, 3",
    "0.19.8, z2-fp16-dynamic, 2",
    "0.19.8, z2-fp32-twogroups, 3",
    "0.19.8, z2-freeze-tie, 4",
    "0.19.8, z3-fp32, 3",
    "0.19.8, z3-bf16-subgroups, 3",
    "0.19.8, z3-freeze-tie, 3",
    "0.19.6, z2-fp32-twogroups, 2",
    "0.18.9, z2-freeze-tie, 2",
    "0.18.9, z3-bf16-subgroups, 4",
    "0.16.9, z3-fp32, 2",
    "0.14.5, z2-fp32-twogroups, 3",
    "0.14.5, z3-fp32, 3"
  })
  void whatTheConverterMadeIsTheSourceAgain(String version, String name, int worldSize) {
    Path input = UNIVERSAL.resolve(version).resolve(name);
    Path output = reshard(input, "output", worldSize, null);

    GoldenCase golden = GoldenCase.of(name);
    assertThat(states(output)).containsExactlyInAnyOrderEntriesOf(states(golden.source()));
    assertThat(replicated(output)).containsExactlyInAnyOrderEntriesOf(replicated(golden.source()));
    assertThat(output.resolve("latest")).hasContent("global_step3");
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "z2-fp32-twogroups",
        "z2-roundrobin",
        "z2-adagrad",
        "z1-sgd",
        "z1-bf16",
        "z3-bf16-subgroups",
        "z3-freeze-tie",
        "pp2-z1"
      })
  void thereAndBackIsTheIdentity(String name) {
    GoldenCase golden = GoldenCase.of(name);
    Path there = universal(golden.source(), "universal");

    Path back = reshard(there, "back", golden.sourceWorld(), null);

    assertThat(states(back)).containsExactlyInAnyOrderEntriesOf(states(golden.source()));
    assertThat(replicated(back)).containsExactlyInAnyOrderEntriesOf(replicated(golden.source()));
    assertThat(Reassembly.of(back, "global_step3").weights().keySet())
        .isEqualTo(Reassembly.of(golden.source(), "global_step3").weights().keySet());
  }

  @ParameterizedTest
  @CsvSource({"z2-fp32-twogroups, 3", "z3-bf16-subgroups, 2", "z3-fp32, 1", "z2-fp16-dynamic, 3"})
  void anotherStageIsMadeOfIt(String name, int stage) {
    Path output = reshard(UNIVERSAL.resolve("0.19.8").resolve(name), "output", 3, stage);

    Map<String, byte[]> expected = new TreeMap<>(states(GoldenCase.of(name).source()));
    expected.keySet().removeIf(key -> key.endsWith(".frozen"));
    assertThat(states(output)).containsAllEntriesOf(expected);
  }

  @Test
  void theFilesAreThoseOfTheNativeCheckpoint() {
    GoldenCase golden = GoldenCase.of("z2-fp32-twogroups");
    Path there = universal(golden.source(), "universal");

    Path through = reshard(there, "through", 3, null);
    Path direct = reshard(golden.source(), "direct", 3, null);

    assertThat(CheckpointComparison.ofStructure(direct).firstDifference(through)).isEmpty();
  }

  /** Also of tensor-parallel ranks, whose parts have other digests than what is in the manifest. */
  @ParameterizedTest
  @ValueSource(strings = {"z2-fp32-twogroups", "tp2-z1", "pp2-z1"})
  void verifyHoldsItAgainstTheNativeCheckpoint(String name) {
    Path source = GoldenCase.of(name).source();
    ReshardOptions options = Resharding.options(source, temp.resolve("universal"), 1);
    options.setTargetWorldSize(null);
    options.setOutputFormat(Formats.UNIVERSAL);
    Resharding.run(options);

    CommandOptions both =
        Resharding.options(temp.resolve("universal"), source, 1).as(CommandOptions.class);
    VerifyReport report = VerifyPipeline.run(both, Resharding.SILENT);

    assertThat(report.equal()).as(report.json()).isTrue();
    assertThat(report.verdicts()).isNotEmpty();
  }

  private RefusedException refusal(Path input) {
    RefusedException[] refused = new RefusedException[1];
    assertThatThrownBy(() -> reshard(input, "refused", 2, null))
        .satisfies(e -> refused[0] = Resharding.cause(e, RefusedException.class));
    assertThat(temp.resolve("refused").resolve("latest")).doesNotExist();
    return refused[0];
  }

  @Test
  void aScrambledOneIsRefused() {
    assertThat(refusal(UNIVERSAL.resolve("0.19.8/z2-roundrobin")))
        .hasMessageContaining("cast to FLOAT32, is not the module's weight");
  }

  @Test
  void whatItDoesNotHoldIsSaid() {
    assertThat(refusal(UNIVERSAL.resolve("0.19.8/pp2-z1")))
        .hasMessageContaining("there are no files of layers");
  }

  private static void copyTree(Path from, Path to) throws IOException {
    try (Stream<Path> all = Files.walk(from)) {
      for (Path path : all.toList()) {
        Files.copy(path, to.resolve(from.relativize(path).toString()));
      }
    }
  }

  private interface Damage {
    void to(Path zero) throws IOException;
  }

  private RefusedException damaged(String name, Damage damage) {
    try {
      Path copy = temp.resolve("copy");
      copyTree(UNIVERSAL.resolve("0.19.8").resolve(name), copy);
      damage.to(copy.resolve("global_step3_universal").resolve("zero"));
      return refusal(copy);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  @Test
  void aMissingFolderOrStateIsRefused() {
    assertThat(
            damaged(
                "z2-fp32-twogroups",
                zero -> {
                  try (Stream<Path> files = Files.list(zero.resolve("head.weight"))) {
                    for (Path file : files.toList()) {
                      Files.delete(file);
                    }
                  }
                  Files.delete(zero.resolve("head.weight"));
                }))
        .hasMessageContaining("expected the file head.weight/fp32.pt");
  }

  @Test
  void aMissingStateIsRefused() {
    assertThat(
            damaged(
                "z2-fp32-twogroups",
                zero -> Files.delete(zero.resolve("head.weight").resolve("exp_avg.pt"))))
        .hasMessageContaining("head.weight has the states");
  }

  @Test
  void theStateOfAnotherParameterIsRefusedWhereTheShapeTells() {
    assertThat(
            damaged(
                "z2-fp32-twogroups",
                zero ->
                    Files.copy(
                        zero.resolve("blocks.0.fc.weight/exp_avg.pt"),
                        zero.resolve("head.weight/exp_avg.pt"),
                        java.nio.file.StandardCopyOption.REPLACE_EXISTING)))
        .hasMessageContaining("has shape [40, 13], param_shapes of the model file says [37, 13]");
  }

  @Test
  void aStepOfAnotherTimeIsRefused() {
    assertThat(
            damaged(
                "z2-fp32-twogroups",
                zero -> {
                  Path step = zero.resolve("head.weight/step.pt");
                  byte[] bytes = Files.readAllBytes(step);
                  TorchContent file = TorchContent.read(step);
                  long at = file.file().storage("0").orElseThrow().payloadOffset();
                  bytes[(int) at + 2] ^= 1;
                  Files.write(step, bytes);
                }))
        .hasMessageContaining("CRC");
  }

  @Test
  void aStepThatWasLeftFromAnotherSaveIsRefused() {
    assertThat(
            damaged(
                "z2-fp32-twogroups",
                zero ->
                    new SourceCopy(zero, "head.weight")
                        .change("step.pt", "0", bytes -> bytes.putFloat(0, 4))))
        .hasMessageContaining("is not that of")
        .hasMessageContaining("more than one step");
  }

  @Test
  void aFlippedBitIsRefused() {
    assertThat(
            damaged(
                "z2-fp32-twogroups",
                zero -> {
                  Path state = zero.resolve("head.weight/exp_avg_sq.pt");
                  byte[] bytes = Files.readAllBytes(state);
                  TorchContent file = TorchContent.read(state);
                  long at = file.file().storage("0").orElseThrow().payloadOffset();
                  bytes[(int) at + 100] ^= 4;
                  Files.write(state, bytes);
                }))
        .hasMessageContaining("CRC");
  }

  @Test
  void statesOfAnUnknownParameterAreRefused() {
    assertThat(
            damaged(
                "z2-fp32-twogroups",
                zero -> {
                  Path folder = Files.createDirectory(zero.resolve("unknown.weight"));
                  for (String state : new String[] {"fp32.pt", "exp_avg.pt"}) {
                    Files.copy(zero.resolve("head.weight").resolve(state), folder.resolve(state));
                  }
                }))
        .hasMessageContaining("does not name");
  }
}
