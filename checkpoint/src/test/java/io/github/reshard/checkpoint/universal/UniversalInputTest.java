package io.github.reshard.checkpoint.universal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.SourceCopy;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
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

  private Path nativeFiles(Path input, String name, int worldSize, int stage) {
    Path output = temp.resolve(name);
    WithoutBeam.fromUniversal(input, output, worldSize, stage);
    return output;
  }

  private Path nativeFiles(Path input, String name, int worldSize) {
    return nativeFiles(input, name, worldSize, ZeroStage.AS_SAVED);
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
    Path output = nativeFiles(input, "output", worldSize);

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

    Path back = nativeFiles(there, "back", golden.sourceWorld());

    assertThat(states(back)).containsExactlyInAnyOrderEntriesOf(states(golden.source()));
    assertThat(replicated(back)).containsExactlyInAnyOrderEntriesOf(replicated(golden.source()));
    assertThat(Reassembly.of(back, "global_step3").weights().keySet())
        .isEqualTo(Reassembly.of(golden.source(), "global_step3").weights().keySet());
  }

  @ParameterizedTest
  @CsvSource({"z2-fp32-twogroups, 3", "z3-bf16-subgroups, 2", "z3-fp32, 1", "z2-fp16-dynamic, 3"})
  void anotherStageIsMadeOfIt(String name, int stage) {
    Path output = nativeFiles(UNIVERSAL.resolve("0.19.8").resolve(name), "output", 3, stage);

    Map<String, byte[]> expected = new TreeMap<>(states(GoldenCase.of(name).source()));
    expected.keySet().removeIf(key -> key.endsWith(".frozen"));
    assertThat(states(output)).containsAllEntriesOf(expected);
  }

  @Test
  void theFilesAreThoseOfTheNativeCheckpoint() {
    GoldenCase golden = GoldenCase.of("z2-fp32-twogroups");
    Path there = universal(golden.source(), "universal");

    Path through = nativeFiles(there, "through", 3);
    Path direct = temp.resolve("direct");
    WithoutBeam.reshard(golden.source(), direct, 3);

    assertThat(CheckpointComparison.ofStructure(direct).firstDifference(through)).isEmpty();
  }

  private String refusal(Path input) {
    String message =
        catchThrowableOfType(RefusedException.class, () -> nativeFiles(input, "refused", 2))
            .getMessage();
    assertThat(temp.resolve("refused").resolve("latest")).doesNotExist();
    return message;
  }

  @Test
  void aScrambledOneIsRefused() {
    assertThat(refusal(UNIVERSAL.resolve("0.19.8/z2-roundrobin")))
        .contains("cast to FLOAT32, is not the module's weight");
  }

  @Test
  void whatItDoesNotHoldIsSaid() {
    assertThat(refusal(UNIVERSAL.resolve("0.19.8/pp2-z1")))
        .contains("there are no files of layers");
  }

  private interface Damage {
    void to(Path zero) throws IOException;
  }

  private String damaged(String name, Damage damage) {
    try {
      Path copy = Scratch.copyOf(UNIVERSAL.resolve("0.19.8").resolve(name), temp.resolve("copy"));
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
        .contains("expected the file head.weight/fp32.pt");
  }

  @Test
  void aMissingStateIsRefused() {
    assertThat(
            damaged(
                "z2-fp32-twogroups",
                zero -> Files.delete(zero.resolve("head.weight").resolve("exp_avg.pt"))))
        .contains("head.weight has the states");
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
                        StandardCopyOption.REPLACE_EXISTING)))
        .contains("has shape [40, 13], param_shapes of the model file says [37, 13]");
  }

  @Test
  void aStepThatWasLeftFromAnotherSaveIsRefused() {
    assertThat(
            damaged(
                "z2-fp32-twogroups",
                zero ->
                    new SourceCopy(zero, "head.weight")
                        .change("step.pt", "0", bytes -> bytes.putFloat(0, 4))))
        .contains("is not that of")
        .contains("more than one step");
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
        .contains("does not name");
  }
}
