package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;

import com.code_intelligence.jazzer.junit.FuzzTest;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.universal.UniversalSource;
import io.github.reshard.testing.ReplacedFile;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Any bytes in the place of one file of a Universal Checkpoint are refused, or planned to files of
 * two ranks. The first byte says of which checkpoint and file.
 */
class UniversalFuzzTest {
  private static final Path UNIVERSAL =
      Path.of(System.getProperty("reshard.testdata"), "universal", "0.19.8");
  private static final String TAG = "global_step3_universal/";
  private static final List<List<String>> PLACES =
      List.of(
          List.of("z2-fp32-twogroups", "zero/optimizer_state.pt"),
          List.of("z2-fp32-twogroups", "zero/head.weight/exp_avg.pt"),
          List.of("z2-fp32-twogroups", "zero/head.weight/step.pt"),
          List.of("z2-fp32-twogroups", "mp_rank_00_model_states.pt"),
          List.of("tp2-z1", "zero/blocks.0.out.weight/exp_avg.pt"),
          List.of("tp2-z1", "mp_rank_01_model_states.pt"),
          List.of("z3-freeze-tie", "zero/optimizer_state.pt"),
          List.of("z3-freeze-tie", "zero/emb.weight/fp32.pt"),
          List.of("z3-freeze-tie", "zero_pp_rank_1_mp_rank_00_model_states.pt"));

  static Stream<byte[]> seeds() {
    return ReplacedFile.seeds(
        PLACES.stream()
            .map(place -> UNIVERSAL.resolve(place.get(0)).resolve(TAG + place.get(1)))
            .toList());
  }

  @MethodSource("seeds")
  @FuzzTest
  void readsOrRefuses(byte[] bytes) throws IOException {
    if (bytes.length == 0) {
      return;
    }
    List<String> place = PLACES.get(Math.floorMod(bytes[0], PLACES.size()));
    SourceStore store =
        new ReplacedFile(TAG + place.get(1), Arrays.copyOfRange(bytes, 1, bytes.length));
    try {
      CheckpointFiles files =
          CheckpointFiles.discover(
              store, UNIVERSAL.resolve(place.get(0)).toString(), Optional.empty());
      UniversalSource source = UniversalSource.of(store, files);
      ReshardPlan plan = Formats.universal(source).plan(2, ZeroStage.AS_SAVED, 1 << 20);
      assertThat(plan.targets()).isNotEmpty();
    } catch (RefusedException expected) {
      // Said in words, which is all that is asked.
    }
  }
}
