package io.github.reshard.checkpoint.universal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.planner.TargetDegrees;
import io.github.reshard.checkpoint.planner.TensorHints;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.TorchContent;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Optional;
import java.util.OptionalInt;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** From Universal Checkpoints of tensor-parallel ranks to native files. */
class RanksOfUniversalTest {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));
  private static final String TAG = "global_step3";

  @TempDir Path temp;

  private static Path saved(String degree) {
    return TESTDATA.resolve("tensor").resolve(degree);
  }

  private Path universal(Path source) {
    Path made = temp.resolve("universal");
    WithoutBeam.toUniversal(source, made);
    return made;
  }

  private Path nativeFiles(Path universal, String name, int ranks, TargetDegrees degrees) {
    Path output = temp.resolve(name);
    WithoutBeam.fromUniversal(universal, output, ranks, ZeroStage.AS_SAVED, degrees);
    return output;
  }

  private static void assertSameState(Path found, Path expected) {
    Reassembly of = Reassembly.of(found, TAG);
    assertThat(of.tensors())
        .containsExactlyInAnyOrderEntriesOf(Reassembly.of(expected, TAG).tensors());
    assertThat(of.replicated())
        .containsExactlyInAnyOrderEntriesOf(Reassembly.of(expected, TAG).replicated());
    assertThat(of.weights().keySet()).isEqualTo(Reassembly.of(expected, TAG).weights().keySet());
  }

  @Test
  void whatDeepSpeedConvertedIsTheSourceAgain() {
    Path input = TESTDATA.resolve("universal/0.19.8/tp2-z1");

    assertSameState(
        nativeFiles(input, "output", 2, TargetDegrees.AS_SAVED),
        TESTDATA.resolve("corpus/tp2-z1/source"));
  }

  @ParameterizedTest
  @CsvSource({
    "columns-z1/tp2dp2, 2",
    "columns-z1/tp3dp1, 1",
    "columns-fp16/tp2dp2, 2",
    "columns-gad/tp4dp1, 1",
    "columns-z3/tp2dp2, 2",
    "llama-z1/tp3dp1, 1",
    "llama-tied-z2/tp2dp1, 1",
    "llama-z3/tp3dp1, 1",
    "qkv-z2/tp5dp1, 1",
    "qkv-z3/tp2dp2, 2",
    "cut-z1/tp4dp1, 1",
    "cut-z1/tp1dp2, 2",
    "cut-z3/tp2dp1, 1",
  })
  void thereAndBackIsTheIdentity(String degree, int ranks) {
    Path source = saved(degree);

    assertSameState(nativeFiles(universal(source), "back", ranks, TargetDegrees.AS_SAVED), source);
  }

  /**
   * @param heads key-value heads, or less if nothing is said: then a vocabulary is padded to
   *     multiples of 4
   * @param rules of --tpRules, for one that says nothing
   */
  @ParameterizedTest
  @CsvSource({
    "columns-z1/tp2dp2, columns-z1/tp4dp1, 4, 1, 0,",
    "columns-z3/tp3dp1, columns-z3/tp2dp2, 2, 2, 0,",
    "llama-z1/tp2dp1, llama-z1/tp3dp1, 3, 1, 4,",
    "qkv-z2/tp2dp1, qkv-z2/tp5dp1, 5, 1, 0,",
    "cut-z1/tp2dp1, cut-z1/tp4dp1, 4, 1, -1,",
    "cut-z1/tp1dp2, cut-z1/tp2dp1, 2, 1, -1,",
    "llama-z1/tp1dp2, llama-z1/tp2dp1, 2, 1, 4, llama",
  })
  void otherTensorParallelRanksAreMadeOfIt(
      String degree, String expected, int tensor, int ranks, int heads, String rules) {
    TargetDegrees degrees =
        new TargetDegrees(
            Optional.of(
                new TensorHints(
                    tensor,
                    Optional.ofNullable(rules),
                    heads < 0 ? OptionalInt.empty() : OptionalInt.of(heads),
                    heads < 0 ? OptionalInt.of(4) : OptionalInt.empty())));

    assertSameState(
        nativeFiles(universal(saved(degree)), "turned", ranks, degrees), saved(expected));
  }

  @Test
  void aFileOfRulesCutsThatOfOneRankAtAnotherStage() {
    TargetDegrees degrees =
        new TargetDegrees(
            Optional.of(
                new TensorHints(3, Optional.of("llama"), OptionalInt.of(4), OptionalInt.empty())));
    Path output = temp.resolve("turned");

    WithoutBeam.fromUniversal(universal(saved("llama-z1/tp1dp2")), output, 1, 3, degrees);

    assertThat(Reassembly.of(output, TAG).tensors())
        .containsExactlyInAnyOrderEntriesOf(Reassembly.of(saved("llama-z3/tp3dp1"), TAG).tensors());
  }

  private interface Damage {
    void to(Path zero) throws IOException;
  }

  private void assertRefused(String degree, String message, Damage damage) {
    Path made = universal(saved(degree));
    try {
      damage.to(made.resolve("global_step3_universal/zero"));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    assertThatThrownBy(() -> nativeFiles(made, "refused", 1, TargetDegrees.AS_SAVED))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(message);
  }

  /** Parts have no CRC of their own, so that they are proven when the reshard is planned. */
  @ParameterizedTest
  @CsvSource({
    "columns-z1/tp2dp2, blocks.0.out.weight, 5", // of the first rank
    "columns-z1/tp2dp2, blocks.0.out.weight, 90", // of the second one
    "columns-z1/tp2dp2, blocks.1.fc.weight, 0",
    "qkv-z3/tp2dp2, blocks.0.fc.weight, 1000",
  })
  void aFlippedBitIsRefused(String degree, String parameter, int at) {
    assertRefused(
        degree,
        "CRC",
        zero -> {
          Path state = zero.resolve(parameter).resolve("exp_avg.pt");
          TorchContent file = TorchContent.read(state);
          byte[] bytes = file.bytes();
          bytes[(int) file.file().storage("0").orElseThrow().payloadOffset() + at] ^= 4;
          Files.write(state, bytes);
        });
  }

  /** Their shapes are the same, and what a rank calls its own would be the other's. */
  @Test
  void mastersOfAnotherParameterAreRefused() {
    assertRefused(
        "columns-z1/tp2dp2",
        "is not the module's weight",
        zero ->
            Scratch.swap(
                zero.resolve("blocks.0.out.weight/fp32.pt"),
                zero.resolve("blocks.1.out.weight/fp32.pt")));
  }

  @Test
  void aTensorOfAnotherShapeIsRefused() {
    assertRefused(
        "columns-z1/tp2dp2",
        "has shape [12, 40], param_shapes of the model file says [40, 12] for the parameter",
        zero ->
            Files.copy(
                zero.resolve("blocks.0.out.weight/exp_avg.pt"),
                zero.resolve("blocks.0.fc.weight/exp_avg.pt"),
                StandardCopyOption.REPLACE_EXISTING));
  }

  @Test
  void aModelFileThatIsMissingIsRefused() {
    assertRefused(
        "columns-z1/tp2dp2",
        "blocks.0.fc",
        zero -> Files.delete(zero.resolveSibling("mp_rank_01_model_states.pt")));
  }
}
