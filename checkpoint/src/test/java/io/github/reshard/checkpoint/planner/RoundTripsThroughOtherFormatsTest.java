package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Out of ZeRO and back at every size and stage is the identity on every tensor: through a Universal
 * Checkpoint, and through the open training state.
 */
class RoundTripsThroughOtherFormatsTest {
  private static final int MOST_RANKS = 5;

  @TempDir Path temp;

  /** What no stage decides: frozen parameters are pieces at ZeRO-3 only. */
  private static Map<String, byte[]> trained(Path checkpoint, String tag) {
    Map<String, byte[]> tensors = new TreeMap<>(Reassembly.of(checkpoint, tag).tensors());
    tensors.keySet().removeIf(key -> key.endsWith(".frozen"));
    return tensors;
  }

  /** Makes native files of what lies between. */
  private interface Back {
    void to(Path output, int worldSize, int stage);
  }

  private void assertIdentity(GoldenCase golden, Back back) {
    Map<String, byte[]> expected = trained(golden.source(), golden.tag());
    assertThat(expected).isNotEmpty();
    for (int stage = ZeroStage.AS_SAVED; stage <= 3; stage++) {
      for (int worldSize = 1; worldSize <= MOST_RANKS; worldSize++) {
        Path output = temp.resolve(stage + "-" + worldSize);
        back.to(output, worldSize, stage);
        assertThat(trained(output, golden.tag()))
            .as("stage %d, %d ranks", stage, worldSize)
            .containsExactlyInAnyOrderEntriesOf(expected);
      }
    }
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "z1-bf16",
        "z1-sgd",
        "z2-adagrad",
        "z2-fp16-dynamic",
        "z2-fp32-twogroups",
        "z2-freeze-tie",
        "z2-roundrobin",
        "z3-bf16-subgroups",
        "z3-freeze-tie",
        "z3-odd-bf16"
      })
  void theOpenState(String name) throws IOException {
    GoldenCase golden = GoldenCase.of(name);
    Path open = temp.resolve("open");
    WithoutBeam.toOpenState(golden.source(), open);
    Files.delete(open.resolve(CheckpointFiles.MANIFEST)); // empty, as no graph ran

    assertIdentity(
        golden,
        (output, worldSize, stage) -> WithoutBeam.fromOpenState(open, output, worldSize, stage));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "z1-bf16",
        "z1-sgd",
        "z2-fp16-dynamic",
        "z2-fp32-twogroups",
        "z2-freeze-tie",
        "z2-roundrobin",
        "z3-bf16-subgroups",
        "z3-freeze-tie"
      })
  void theUniversalCheckpoint(String name) {
    GoldenCase golden = GoldenCase.of(name);
    Path universal = temp.resolve("universal");
    WithoutBeam.toUniversal(golden.source(), universal);

    assertIdentity(
        golden,
        (output, worldSize, stage) ->
            WithoutBeam.fromUniversal(universal, output, worldSize, stage));
  }
}
