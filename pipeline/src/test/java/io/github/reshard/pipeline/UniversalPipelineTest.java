package io.github.reshard.pipeline;

import static io.github.reshard.testing.Scratch.TAG;
import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.UniversalContent;
import io.github.reshard.testing.WithoutBeam;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.SortedMap;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** What the graph adds to Universal Checkpoints: proofs by workers, and names of tags. */
class UniversalPipelineTest {
  private static final String UNIVERSAL_TAG = TAG + "_universal";

  @TempDir Path temp;

  private ReshardReport toUniversal(Path source) {
    ReshardOptions options = Resharding.options(source, temp.resolve("universal"), 4);
    options.setTargetWorldSize(null);
    options.setOutputFormat(Formats.UNIVERSAL);
    return Resharding.run(Resharding.checked(options));
  }

  private static SortedMap<String, String> contents(Path output) {
    SortedMap<String, String> contents = Scratch.contents(output);
    contents.keySet().removeIf(name -> name.endsWith("reshard-manifest.json"));
    return contents;
  }

  @Test
  void theGraphWritesTheSameAndNamesTheTag() {
    Path source = GoldenCase.of("z2-fp32-twogroups").source();

    assertThat(toUniversal(source).targetWorldSize()).isZero();

    Path graph = temp.resolve("universal");
    assertThat(graph.resolve("latest_universal")).hasContent(UNIVERSAL_TAG);
    assertThat(graph.resolve("latest")).doesNotExist();
    assertThat(UniversalContent.of(graph).states()).isNotEmpty();
    WithoutBeam.toUniversal(source, temp.resolve("loop"));
    assertThat(contents(graph)).isEqualTo(contents(temp.resolve("loop")));
  }

  @ParameterizedTest
  @CsvSource({"z2-fp32-twogroups, 3", "z3-bf16-subgroups, 2"})
  void theGraphReadsTheSameAndNamesTheTag(String name, int stage) {
    Path universal = testdata(name);
    ReshardOptions options = Resharding.options(universal, temp.resolve("graph"), 3);
    options.setTargetStage(stage);

    assertThat(Resharding.run(Resharding.checked(options)).tag()).isEqualTo(TAG);

    assertThat(temp.resolve("graph").resolve("latest")).hasContent(TAG);
    WithoutBeam.fromUniversal(universal, temp.resolve("loop"), 3, stage);
    assertThat(contents(temp.resolve("graph"))).isEqualTo(contents(temp.resolve("loop")));
  }

  /** Also of tensor-parallel ranks, whose parts have other digests than what is in the manifest. */
  @ParameterizedTest
  @ValueSource(strings = {"z2-fp32-twogroups", "tp2-z1", "pp2-z1"})
  void verifyHoldsItAgainstTheNativeCheckpoint(String name) {
    Path source = GoldenCase.of(name).source();
    toUniversal(source);

    CommandOptions both =
        Resharding.options(temp.resolve("universal"), source, 1).as(CommandOptions.class);
    VerifyReport report = VerifyPipeline.run(both, Resharding.SILENT);

    assertThat(report.equal()).as(report.json()).isTrue();
    assertThat(report.verdicts()).isNotEmpty();
  }

  private static Path testdata(String name) {
    return Path.of(System.getProperty("reshard.testdata"), "universal", "0.19.8", name);
  }

  private String refusalOfDamaged(String state, Consumer<ByteBuffer> damage) {
    Path copy = Scratch.copyOf(testdata("z2-fp32-twogroups"), temp.resolve("copy"));
    Path file = copy.resolve(UNIVERSAL_TAG).resolve("zero").resolve(state);
    assertThat(Files.exists(file)).isTrue();
    Scratch.damage(file, "0", damage);
    return Resharding.refusal(copy, temp.resolve("refused"), 2);
  }

  @Test
  void aFlippedBitIsRefused() {
    assertThat(
            refusalOfDamaged(
                "head.weight/exp_avg_sq.pt", bytes -> bytes.put(100, (byte) (bytes.get(100) ^ 4))))
        .contains("CRC");
    assertThat(temp.resolve("refused").resolve("latest")).doesNotExist();
  }

  @Test
  void aStepOfAnotherTimeIsRefused() {
    assertThat(
            refusalOfDamaged(
                "head.weight/step.pt", bytes -> bytes.put(2, (byte) (bytes.get(2) ^ 1))))
        .contains("CRC");
    assertThat(temp.resolve("refused").resolve("latest")).doesNotExist();
  }
}
