package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;

import com.code_intelligence.jazzer.junit.FuzzTest;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.openstate.OpenStateSource;
import io.github.reshard.testing.ReplacedFile;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Any bytes in the place of one file of an open training state are refused, or planned to files of
 * two ranks. The first byte says of which file.
 */
class OpenStateFuzzTest {
  private static final Path STATE =
      Path.of(System.getProperty("reshard.testdata"), "openstate", "z2-fp16-dynamic");
  private static final List<String> PLACES =
      List.of("optimizer.json", "model.safetensors", "optimizer.safetensors");

  static Stream<byte[]> seeds() {
    return ReplacedFile.seeds(PLACES.stream().map(STATE::resolve).toList());
  }

  @MethodSource("seeds")
  @FuzzTest
  void readsOrRefuses(byte[] bytes) throws IOException {
    if (bytes.length == 0) {
      return;
    }
    String place = PLACES.get(Math.floorMod(bytes[0], PLACES.size()));
    ReplacedFile store = new ReplacedFile(place, Arrays.copyOfRange(bytes, 1, bytes.length));
    try {
      Optional<OpenStateSource> source = OpenStateSource.find(store, STATE.toString());
      assertThat(source).isPresent();
      assertThat(Formats.openState(source.get()).plan(2, ZeroStage.AS_SAVED, 1 << 20).targets())
          .isNotEmpty();
    } catch (RefusedException expected) {
      // Said in words, which is all that is asked.
    }
  }
}
