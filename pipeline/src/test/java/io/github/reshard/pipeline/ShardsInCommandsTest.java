package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The commands beside the main job know shards that a user saved, and every kind of path. */
class ShardsInCommandsTest {
  private static final Path CASES = Path.of(System.getProperty("reshard.testdata"), "usershards");

  @TempDir Path directory;

  private static Path user(String name) {
    return CASES.resolve(name).resolve("user");
  }

  private static CommandOptions options(String input, Path output, int ranks) {
    CommandOptions options =
        Resharding.options(Path.of("unused"), output, ranks).as(CommandOptions.class);
    options.setInput(input);
    options.setModel("pytorch_model.bin");
    return options;
  }

  private static VerifyReport verify(Path a, Path b) {
    return VerifyPipeline.run(options(a.toString(), b, 1), Resharding.SILENT);
  }

  @ParameterizedTest
  @CsvSource({"z1-bf16-optimizer, 3", "z2-fp16-twogroups, 3", "z3-fp32, 3"})
  void verifyFindsTheStateOfShardsThatWereResharded(String name, int ranks) {
    Path output = directory.resolve("output");
    Resharding.run(options(user(name).toString(), output, ranks));

    VerifyReport report = verify(user(name), output);

    assertThat(report.equal()).isTrue();
    assertThat(report.ranksA()).isEqualTo(2);
    assertThat(report.ranksB()).isEqualTo(ranks);
    assertThat(report.verdicts()).hasSize(48);
    assertThat(report.notes()).contains("--output: 48 digests of its manifest were checked");
  }

  @Test
  void shardsAreHeldAgainstTheCheckpointOfTheSameRun() {
    Path run = CASES.resolveSibling("corpus/z2-fp32-twogroups");

    VerifyReport report = verify(run.resolve("reference-2"), run.resolve("user"));

    assertThat(report.equal()).isTrue();
    assertThat(report.verdicts()).hasSize(48);
    assertThat(report.notes()).anyMatch(note -> note.contains("hold no buffers"));
  }

  @Test
  void verifyFindsWhatDiffers() {
    VerifyReport report = verify(user("z1-fp32"), user("z2-bf16"));

    assertThat(report.equal()).isFalse();
    assertThat(report.verdicts()).anyMatch(verdict -> !verdict.equal());
  }

  @Test
  void verifySaysWhatIsTakenOnTrustOfBothSides() {
    CommandOptions options = options(user("z2-bf16").toString(), user("z2-bf16"), 1);
    options.setModel(null);

    assertThat(VerifyPipeline.run(options, Resharding.SILENT).notes())
        .anyMatch(note -> note.startsWith("--input: the order of parameters was taken on trust"))
        .anyMatch(note -> note.startsWith("--output: the order of parameters was taken on trust"));
  }

  @ParameterizedTest
  @CsvSource({
    "z1-bf16-optimizer, 1, BF16_Optimizer, 2",
    "z1-fp32, 1, DeepSpeedZeroOptimizer, 3",
    "z3-bf16-subgroups, 3, DeepSpeedZeroOptimizer_Stage3, 2"
  })
  void inspectKnowsThem(String name, int stage, String wrapper, int ranks) {
    CommandOptions options = options("file://" + user(name).toAbsolutePath() + "//", null, 1);
    options.setTargetWorldSize(null);

    Inspection inspection = Inspection.of(options);

    assertThat(inspection.refusal()).isEmpty();
    assertThat(inspection.name()).isEqualTo(user(name).toAbsolutePath().toString());
    assertThat(inspection.facts().stage()).isEqualTo(stage);
    assertThat(inspection.facts().wrapper()).isEqualTo(wrapper);
    assertThat(inspection.facts().dataParallelRanks()).isEqualTo(ranks);
    assertThat(inspection.parameters()).isEqualTo(12);
    assertThat(inspection.allFiles()).hasSize(ranks + 1);
  }

  @Test
  void inspectSaysWhatIsMissingToReshardThem() {
    CommandOptions options = options(user("z3-fp32").toString(), null, 1);
    options.setModel(null);

    assertThat(Inspection.of(options).refusal()).contains("Say --model=FILE");
  }

  @Test
  void whatOnlyShardsNeedIsRefusedWhereNoneAre() {
    Path checkpoint = CASES.resolveSibling("corpus/z1-sgd/source");

    assertThatThrownBy(() -> verify(checkpoint, checkpoint))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("[--model] are for shards");
  }
}
