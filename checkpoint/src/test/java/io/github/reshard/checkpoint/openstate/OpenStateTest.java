package io.github.reshard.checkpoint.openstate;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/** From DeepSpeed's files to the open training state, and back to DeepSpeed's. */
class OpenStateTest {
  @TempDir Path temp;

  /** Of which no open state is written, or none is read, and what is said instead. */
  private static final Map<String, String> REFUSED =
      Map.ofEntries(
          Map.entry("pp2-z1", "more than one model-parallel rank"),
          Map.entry("z2-elastic", "leaves the hyper-parameters of the param groups out"),
          Map.entry("z2-aligned-roundrobin", "has parameter_alignment"),
          Map.entry("parameter-alignment-0.19.8", "has parameter_alignment"),
          Map.entry("z2-muon", "Each parameter would need a number of its own"),
          Map.entry("bitsandbytes-32bit", "state.__bnb_optimizer_quant_state__"),
          Map.entry("bitsandbytes-32bit-from-1", "state.__bnb_optimizer_quant_state__"));

  static Stream<GoldenCase> cases() {
    return GoldenCase.all().stream()
        .filter(golden -> !REFUSED.containsKey(golden.name()))
        .filter(golden -> !golden.name().startsWith("moe-"))
        .filter(golden -> !golden.name().startsWith("tp"));
  }

  static Stream<GoldenCase> refused() {
    return GoldenCase.all().stream()
        .filter(golden -> REFUSED.containsKey(golden.name()) || golden.name().startsWith("moe-"));
  }

  @ParameterizedTest
  @MethodSource("refused")
  void whatHasNoPlaceIsRefusedByName(GoldenCase golden) {
    assertThatThrownBy(
            () ->
                WithoutBeam.fromOpenState(
                    open(golden), temp.resolve("back"), golden.sourceWorld(), ZeroStage.AS_SAVED))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(REFUSED.getOrDefault(golden.name(), "states of experts"));
  }

  private Path open(GoldenCase golden) {
    Path open = temp.resolve("open");
    WithoutBeam.toOpenState(golden.source(), open);
    try {
      Files.delete(open.resolve(CheckpointFiles.MANIFEST)); // empty, as no graph ran
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return open;
  }

  private static String tag(Path checkpoint) {
    try {
      return Files.readString(checkpoint.resolve("latest")).strip();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static Reassembly whole(Path checkpoint) {
    return Reassembly.of(checkpoint, tag(checkpoint));
  }

  private static Map<String, byte[]> weights(Reassembly of) {
    Map<String, byte[]> weights = new TreeMap<>();
    of.weights()
        .forEach((name, weight) -> weights.put(name + " " + weight.dtype(), weight.bytes()));
    return weights;
  }

  @ParameterizedTest
  @MethodSource("cases")
  void thereAndBackIsTheIdentity(GoldenCase golden) {
    Path back = temp.resolve("back");

    WithoutBeam.fromOpenState(open(golden), back, golden.sourceWorld(), ZeroStage.AS_SAVED);

    Reassembly expected = whole(golden.source());
    Reassembly found = whole(back);
    assertThat(tag(back)).isEqualTo(tag(golden.source()));
    assertThat(found.tensors()).containsExactlyInAnyOrderEntriesOf(expected.tensors());
    assertThat(found.replicated()).containsExactlyInAnyOrderEntriesOf(expected.replicated());
    assertThat(weights(found)).containsExactlyInAnyOrderEntriesOf(weights(expected));
  }

  @ParameterizedTest
  @CsvSource({
    "z1-bf16, 3",
    "z2-fp16-dynamic, 3",
    "z2-freeze-tie, 3",
    "z3-bf16-subgroups, 2",
    "z3-freeze-tie, 1"
  })
  void anotherStageIsMadeOfIt(String name, int stage) {
    GoldenCase golden = GoldenCase.of(name);
    Path back = temp.resolve("back");

    WithoutBeam.fromOpenState(open(golden), back, 5, stage);

    Map<String, byte[]> expected = new TreeMap<>(whole(golden.source()).tensors());
    expected.keySet().removeIf(key -> key.endsWith(".frozen"));
    assertThat(whole(back).tensors()).containsAllEntriesOf(expected);
  }
}
