package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.NearestEven;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.WithoutBeam;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** The same network as DeepSpeed saves it at each stage: testdata/stages. */
class StageTest {
  private static final Path STAGES = Path.of(System.getProperty("reshard.testdata"), "stages");
  private static final String TAG = "global_step3";

  @TempDir Path temp;

  static Stream<Arguments> turns() {
    return Stream.of("fp32", "bf16", "fp16")
        .flatMap(
            name ->
                IntStream.rangeClosed(1, 3)
                    .boxed()
                    .flatMap(
                        from ->
                            IntStream.rangeClosed(1, 3)
                                .filter(to -> to != from)
                                .mapToObj(to -> arguments(name, from, to))));
  }

  private static Path saved(String name, int stage) {
    return STAGES.resolve(name + "-stage" + stage);
  }

  private static int ranks(String name) {
    return name.equals("fp32") ? 3 : 2;
  }

  private Path turned(Path input, String output, int worldSize, int stage) {
    WithoutBeam.reshard(input, temp.resolve(output), worldSize, stage);
    return temp.resolve(output);
  }

  @ParameterizedTest
  @MethodSource("turns")
  void theFilesSayWhatDeepSpeedSavesAtThatStage(String name, int from, int to) {
    Path output = temp.resolve("turned");
    ReshardPlan plan = WithoutBeam.reshard(saved(name, from), output, ranks(name), to);
    assertThat(plan.notes()).contains("stage " + from + " → stage " + to);
    assertThat(plan.evidence())
        .anyMatch(evidence -> evidence.claim().startsWith("all optimizer files are of one step"));

    assertThat(CheckpointComparison.ofStructure(saved(name, to)).firstDifference(output)).isEmpty();
  }

  @ParameterizedTest
  @MethodSource("turns")
  void everyStateIsThatOfTheSourceAndWeightsAreItsRoundedMasters(String name, int from, int to) {
    Reassembly source = Reassembly.of(saved(name, from), TAG);
    Reassembly output = Reassembly.of(turned(saved(name, from), "turned", 5, to), TAG);

    Map<String, byte[]> trained = new HashMap<>(source.tensors());
    trained.keySet().removeIf(key -> key.endsWith(".frozen"));
    assertThat(trained).isNotEmpty();
    assertThat(output.tensors()).containsAllEntriesOf(trained);
    assertThat(output.replicated()).containsExactlyInAnyOrderEntriesOf(source.replicated());
    Map<String, byte[]> frozen = new HashMap<>();
    source.tensors().forEach((key, bytes) -> addFrozen(key, bytes, frozen));
    if (to != 3) {
      frozen.forEach(
          (parameter, bytes) ->
              assertThat(output.weights().get(parameter).bytes()).as(parameter).isEqualTo(bytes));
      trained.forEach(
          (key, bytes) -> {
            if (key.endsWith(".fp32")) {
              String parameter = key.substring(0, key.length() - ".fp32".length());
              Reassembly.Weight weight = output.weights().get(parameter);
              assertThat(NearestEven.firstThatIsNot(weight.dtype(), weight.bytes(), bytes))
                  .as("first element of %s that is not its master rounded", parameter)
                  .isEqualTo(-1);
            }
          });
    } else if (from != 3 && name.equals("fp32")) {
      output.tensors().forEach((key, bytes) -> addFrozen(key, bytes, frozen));
      assertThat(frozen).hasSize(2);
      frozen.forEach(
          (parameter, bytes) ->
              assertThat(bytes).isEqualTo(source.weights().get(parameter).bytes()));
    }
  }

  private static void addFrozen(String key, byte[] bytes, Map<String, byte[]> frozen) {
    if (key.endsWith(".frozen")) {
      frozen.put(key.substring(0, key.length() - ".frozen".length()), bytes);
    }
  }

  @ParameterizedTest
  @MethodSource("turns")
  void thereAndBackIsTheSource(String name, int from, int to) {
    Path back = turned(turned(saved(name, from), "there", 4, to), "back", ranks(name), from);

    assertThat(CheckpointComparison.with(saved(name, from)).firstDifference(back)).isEmpty();
  }
}
