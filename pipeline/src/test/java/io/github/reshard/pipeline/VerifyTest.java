package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.TorchContent;
import io.github.reshard.testing.TorchContentViews;
import io.github.reshard.testing.WithoutBeam;
import io.github.reshard.transforms.TensorVerdict;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/** What {@code verify} holds to be the same, and what it finds. */
class VerifyTest {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));
  private static final String TAG = "global_step3";

  @TempDir Path temp;

  private static Path source(String name) {
    return TESTDATA.resolve(name).resolve("source");
  }

  /** Without the manifest, which {@link WithoutBeam} leaves empty. */
  private Path turned(String name, int worldSize, int stage) throws IOException {
    Path output = temp.resolve("output");
    WithoutBeam.reshard(source(name), output, worldSize, stage);
    Files.delete(output.resolve(TAG).resolve("reshard-manifest.json"));
    return output;
  }

  private static VerifyReport verify(Path a, Path b) {
    return VerifyPipeline.run(
        Resharding.options(a, b, 1).as(CommandOptions.class), Resharding.SILENT);
  }

  static Stream<Arguments> turns() {
    return Stream.of(
        arguments("corpus/z2-freeze-tie", 3, 29),
        arguments("corpus/z2-freeze-tie", 1, 36),
        arguments("corpus/z3-freeze-tie", 2, 29),
        arguments("corpus/z3-freeze-tie", 1, 29),
        arguments("field/qlora-z2", 3, 57),
        arguments("field/extra-state-z2", 3, 36));
  }

  @ParameterizedTest
  @MethodSource("turns")
  void anExactTurnToAnotherStageIsEqualFrozenParametersIncluded(
      String name, int stage, int compared) throws IOException {
    Path output = turned(name, 3, stage);

    for (VerifyReport report :
        new VerifyReport[] {verify(source(name), output), verify(output, source(name))}) {
      assertThat(report.valueDifferences()).isEmpty();
      assertThat(report.verdicts()).allMatch(verdict -> verdict.equal());
      assertThat(report.equal()).isTrue();
      assertThat(report.verdicts()).hasSize(compared);
    }
  }

  private static Path grid(String name) {
    return TESTDATA.resolve("degrees/grid").resolve(name);
  }

  /** Column and row parallel weights, a padded vocabulary, and tied copies among them. */
  @ParameterizedTest
  @CsvSource({"p2t2d2, p1t1d3", "p3t1d1, p1t3d1"})
  void oneStateOnTwoGridsIsEqual(String one, String other) {
    VerifyReport report = verify(grid(one), grid(other));

    assertThat(report.valueDifferences()).isEmpty();
    assertThat(report.verdicts()).allMatch(verdict -> verdict.equal());
    assertThat(report.equal()).isTrue();
    assertThat(report.verdicts().stream().map(TensorVerdict::parameter).distinct()).hasSize(31);
  }

  /** One of the second copy of a tied parameter, on the last stage. */
  @Test
  void aCopyThatDiffersIsFoundAcrossGrids() {
    Path other = Scratch.copyOf(grid("p2t2d1"), temp.resolve("other"));
    Scratch.change(
        other.resolve(TAG).resolve("bf16_zero_pp_rank_0_mp_rank_03_optim_states.pt"),
        "2",
        bytes -> bytes.put(5, (byte) (bytes.get(5) ^ 1)));

    VerifyReport report = verify(grid("p1t1d3"), other);

    assertThat(report.equal()).isFalse();
    assertThat(report.verdicts().stream().filter(verdict -> !verdict.equal()).toList())
        .singleElement()
        .satisfies(
            verdict -> {
              assertThat(verdict.parameter().name())
                  .isEqualTo("tied_modules.embed.word_embeddings.weight");
              assertThat(verdict.state()).endsWith("of --output");
            });
  }

  @Test
  void ranksThatNothingSaysHowToJoinAreNotCompared() {
    Path other =
        Scratch.copyOf(TESTDATA.resolve("tensor/columns-z1/tp2dp2"), temp.resolve("other"));
    for (int rank = 0; rank < 2; rank++) {
      Scratch.edit(
          other.resolve(TAG).resolve("mp_rank_0%d_model_states.pt".formatted(rank)),
          root ->
              ((PyDict) root)
                  .entries()
                  .list()
                  .removeIf(
                      entry -> ((PyStr) entry.key()).value().equals("universal_checkpoint_info")));
    }

    assertThatThrownBy(() -> verify(other, TESTDATA.resolve("tensor/columns-z1/tp4dp1")))
        .hasMessageContaining("the two are of different grids")
        .hasMessageContaining("nothing in it says how its parameters are cut");
  }

  @Test
  void aFrozenWeightThatDiffersIsFoundAcrossStages() throws IOException {
    Path output = turned("corpus/z2-freeze-tie", 2, 3);
    Path other = Scratch.copyOf(source("corpus/z2-freeze-tie"), temp.resolve("other"));
    Path model = other.resolve(TAG).resolve(Scratch.MODEL);
    TorchContent content = TorchContent.read(model);
    String name =
        TorchContent.text(
            TorchContent.entries(content.at("frozen_param_shapes")).list().get(0).key());
    String storage = TensorNode.of(content.at("module", name)).orElseThrow().storageKey();
    Scratch.rewrite(
        model,
        root -> {},
        (key, bytes) -> {
          if (key.equals(storage)) {
            bytes[bytes.length - 1] ^= 1;
          }
        });

    VerifyReport report = verify(other, output);

    assertThat(report.equal()).isFalse();
    assertThat(report.verdicts())
        .filteredOn(verdict -> !verdict.equal())
        .singleElement()
        .matches(verdict -> verdict.parameter().name().equals(name))
        .matches(verdict -> verdict.state().equals("frozen"));
  }

  @Test
  void aViewOfOtherElementsIsFoundAndSoIsATensorThatIsMissing() {
    Path source = source("field/view-in-module-z2");
    Path other = Scratch.copyOf(source, temp.resolve("other"));
    Scratch.edit(
        other.resolve(TAG).resolve(Scratch.MODEL),
        root ->
            TorchContentViews.tensors(((PyDict) root).get("module"))
                .get("blocks.0.out.right")
                .setStorageOffset(1086));
    Path without = Scratch.copyOf(source, temp.resolve("without"));
    Scratch.edit(
        without.resolve(TAG).resolve(Scratch.MODEL),
        root ->
            TorchContent.entries(((PyDict) root).get("module"))
                .list()
                .removeIf(e -> TorchContent.text(e.key()).equals("blocks.0.out.left")));

    assertThat(verify(source, other).valueDifferences())
        .singleElement()
        .asString()
        .contains("module: blocks.0.out.right");
    assertThat(verify(source, without).valueDifferences())
        .containsExactly("module: only --input has blocks.0.out.left");
  }

  @Test
  void inspectDoesNotTakeConstantsForBuffers() {
    Inspection inspection =
        Inspection.of(
            Resharding.options(source("field/qlora-z2"), temp, 2).as(CommandOptions.class));

    assertThat(inspection.facts().buffers()).isZero();
    assertThat(inspection.facts().frozen()).isEqualTo(21);
    assertThat(inspection.facts().oddities())
        .anyMatch(oddity -> oddity.startsWith("42 tensors of the module are neither"));
  }

  static Stream<String> withExtras() {
    return Stream.of("field/qlora-z2", "field/extra-state-z2", "corpus/z2-freeze-tie");
  }

  @ParameterizedTest
  @MethodSource("withExtras")
  void whatIsAFrozenParameterIsFoundAtStage1WhichDoesNotListThem(String name) {
    Path direct = temp.resolve("direct");
    WithoutBeam.reshard(source(name), direct, 2, 3);
    Path stage1 = temp.resolve("stage1");
    WithoutBeam.reshard(source(name), stage1, 3, 1);
    Path over1 = temp.resolve("over1");
    WithoutBeam.reshard(stage1, over1, 2, 3);

    assertThat(CheckpointComparison.with(direct).firstDifference(over1)).isEmpty();
  }
}
