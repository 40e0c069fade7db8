package io.github.reshard.checkpoint.openstate;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.planner.TargetDegrees;
import io.github.reshard.checkpoint.planner.TensorHints;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Optional;
import java.util.OptionalInt;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * The open state of tensor-parallel ranks is that of one rank, and goes back to any number of them:
 * testdata/tensor has one state as DeepSpeed saved it at several.
 */
class OpenStateOfRanksTest {
  private static final Path TENSOR = Path.of(System.getProperty("reshard.testdata"), "tensor");
  private static final String TAG = "global_step3";

  @TempDir Path temp;

  private Path back(String saved, int ranks, TargetDegrees degrees) throws IOException {
    WithoutBeam.toOpenState(TENSOR.resolve(saved), temp.resolve("open"));
    Files.delete(temp.resolve("open").resolve("reshard-manifest.json")); // empty without Beam
    WithoutBeam.fromOpenState(
        temp.resolve("open"), temp.resolve("back"), ranks, ZeroStage.AS_SAVED, degrees);
    return temp.resolve("back");
  }

  private static void assertSameState(Path found, Path expected) {
    assertThat(Reassembly.of(found, TAG).tensors())
        .isNotEmpty()
        .containsExactlyInAnyOrderEntriesOf(Reassembly.of(expected, TAG).tensors());
    assertThat(Reassembly.of(found, TAG).replicated())
        .containsExactlyInAnyOrderEntriesOf(Reassembly.of(expected, TAG).replicated());
    assertThat(Reassembly.of(found, TAG).weights().keySet())
        .isEqualTo(Reassembly.of(expected, TAG).weights().keySet());
  }

  @ParameterizedTest
  @CsvSource({
    "columns-z1/tp2dp2, columns-z1/tp1dp3, 3",
    "columns-z2/tp4dp1, columns-z2/tp1dp3, 3",
    "columns-fp16/tp2dp2, columns-fp16/tp1dp3, 3",
    "columns-gad/tp2dp2, columns-gad/tp1dp3, 3",
    "columns-z3/tp3dp1, columns-z3/tp1dp3, 3",
    "llama-z1/tp3dp1, llama-z1/tp1dp2, 2",
    "llama-tied-z2/tp2dp1, llama-tied-z2/tp1dp2, 2",
    "llama-z3/tp2dp1, llama-z3/tp1dp2, 2",
    "qkv-z2/tp5dp1, qkv-z2/tp1dp2, 2",
    "qkv-z3/tp2dp2, qkv-z3/tp1dp3, 3",
  })
  void oneRankIsMadeOfIt(String saved, String one, int ranks) throws IOException {
    assertSameState(back(saved, ranks, TargetDegrees.AS_SAVED), TENSOR.resolve(one));
  }

  @ParameterizedTest
  @CsvSource({
    "columns-z1/tp2dp2, columns-z1/tp2dp2, 2, 2, 0",
    "columns-z1/tp2dp2, columns-z1/tp4dp1, 4, 1, 0",
    "llama-z1/tp2dp1, llama-z1/tp3dp1, 3, 1, 4",
    "llama-tied-z2/tp2dp1, llama-tied-z2/tp4dp1, 4, 1, 4",
    "qkv-z2/tp2dp1, qkv-z2/tp5dp1, 5, 1, 0",
    "columns-z3/tp3dp1, columns-z3/tp2dp2, 2, 2, 0",
    "llama-z3/tp2dp1, llama-z3/tp3dp1, 3, 1, 4",
  })
  void tensorParallelRanksAreMadeOfIt(
      String saved, String expected, int tensor, int ranks, int heads) throws IOException {
    assertSameState(back(saved, ranks, degrees(tensor, heads)), TENSOR.resolve(expected));
  }

  @Test
  void aFileOfRulesCutsThatOfOneRank() throws IOException {
    TensorHints llama =
        new TensorHints(3, Optional.of("llama"), OptionalInt.of(4), OptionalInt.empty());

    assertSameState(
        back("llama-z1/tp1dp2", 1, new TargetDegrees(Optional.of(llama))),
        TENSOR.resolve("llama-z1/tp3dp1"));
  }

  private static TargetDegrees degrees(int tensor, int heads) {
    return new TargetDegrees(
        Optional.of(
            new TensorHints(tensor, Optional.empty(), OptionalInt.of(heads), OptionalInt.empty())));
  }
}
