package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.NearestEven;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.Safetensors;
import io.github.reshard.testing.WithoutBeam;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** Every case at every number of ranks from 1 to 16, where DeepSpeed's own output is not there. */
class EveryWorldSizeTest {
  private static final int MOST_RANKS = 16;
  private static final String MODULE = ".module";
  private static final Map<GoldenCase, Reassembly> SOURCES = new ConcurrentHashMap<>();
  private static final AtomicInteger CHECKED = new AtomicInteger();
  private static final AtomicInteger TENSORS = new AtomicInteger();

  @TempDir Path temp;

  static List<GoldenCase> cases() {
    return GoldenCase.all();
  }

  static Stream<Arguments> casesAndWorldSizes() {
    return cases().stream()
        .flatMap(
            c ->
                IntStream.rangeClosed(1, MOST_RANKS)
                    .filter(worldSize -> worldSize % c.expertParallelSize() == 0)
                    .mapToObj(worldSize -> arguments(c, worldSize)));
  }

  private static Reassembly source(GoldenCase golden) {
    return SOURCES.computeIfAbsent(golden, c -> Reassembly.of(c.source(), c.tag()));
  }

  @ParameterizedTest
  @MethodSource("casesAndWorldSizes")
  void fullParametersAreThoseOfTheSource(GoldenCase golden, int worldSize) {
    Path output = temp.resolve("resharded");
    WithoutBeam.reshard(golden.source(), output, worldSize);
    Reassembly resharded = Reassembly.of(output, golden.tag());

    requireSame(source(golden).tensors(), resharded.tensors());
    requireSame(source(golden).replicated(), resharded.replicated());
    if (!golden.isSharded()) {
      requireMastersAreTheWeights(resharded);
    }
    CHECKED.incrementAndGet();
    TENSORS.addAndGet(resharded.tensors().size());
  }

  @ParameterizedTest
  @MethodSource("cases")
  void fullParametersOfTheSourceAreWhatDeepSpeedHadInMemory(GoldenCase golden) {
    Reassembly source = source(golden);
    if (!golden.isSharded()) {
      requireMastersAreTheWeights(source);
    }
    if (Files.exists(golden.truth())) {
      Map<String, byte[]> states = new TreeMap<>();
      Safetensors.read(golden.truth())
          .forEach(
              (name, bytes) -> {
                if (name.endsWith(MODULE)) {
                  String weight = "00/" + name.substring(0, name.length() - MODULE.length());
                  assertThat(source.weights().get(weight).bytes()).as(name).isEqualTo(bytes);
                } else {
                  states.put("00/" + name, bytes);
                }
              });
      if (!states.isEmpty()) {
        Map<String, byte[]> trained = new TreeMap<>(source.tensors());
        trained.keySet().removeIf(name -> name.endsWith(".frozen"));
        requireSame(states, trained);
      }
    }
  }

  private static void requireSame(Map<String, byte[]> expected, Map<String, byte[]> found) {
    assertThat(found.keySet()).isEqualTo(expected.keySet());
    expected.forEach((name, bytes) -> assertThat(found.get(name)).as(name).isEqualTo(bytes));
  }

  private static void requireMastersAreTheWeights(Reassembly checkpoint) {
    checkpoint
        .tensors()
        .forEach(
            (name, masters) -> {
              if (name.endsWith(".fp32")) {
                String parameter = name.substring(0, name.length() - ".fp32".length());
                Reassembly.Weight weight = checkpoint.weights().get(parameter);
                assertThat(weight).as("weight of " + parameter).isNotNull();
                assertThat(NearestEven.firstThatIsNot(weight.dtype(), weight.bytes(), masters))
                    .as("first element of %s that is not its master cast", parameter)
                    .isEqualTo(-1);
              }
            });
  }

  @AfterAll
  static void sayWhatWasCovered() {
    System.out.printf(
        "golden: %d cases x 1..%d ranks = %d checkpoints, %d full tensors compared%n",
        cases().size(), MOST_RANKS, CHECKED.get(), TENSORS.get());
  }
}
