package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Scratch;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * Bits flipped, blocks zeroed, files cut and dropped at random: refused, or the output of the
 * undamaged checkpoint. Native checkpoints, Universal ones and open training states. {@code
 * scripts/damage} runs it with another seed and more often.
 */
class RandomDamageTest {
  private static final long SEED = Long.getLong("reshard.damage.seed", 20261125L);
  private static final int COUNT = Integer.getInteger("reshard.damage.count", 40);
  private static final String ONLY = System.getProperty("reshard.damage.only", ".*");
  private static final int WORLD_SIZE = 2;
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));

  /** What holds a checkpoint: not what describes the model, and is copied beside it. */
  private static final Pattern DAMAGED = Pattern.compile("\\.(pt|safetensors)$|optimizer\\.json$");

  @TempDir Path temp;

  /** What becomes of a file, one of {@code files}. */
  private static String damage(Path file, List<Path> files, Random random) throws IOException {
    byte[] bytes = Files.readAllBytes(file);
    int at = random.nextInt(bytes.length);
    switch (random.nextInt(6)) {
      case 0 -> {
        int bit = random.nextInt(8);
        bytes[at] ^= (byte) (1 << bit);
        Files.write(file, bytes);
        return "bit %d of byte %d flipped".formatted(bit, at);
      }
      case 1 -> {
        int length = Math.min(bytes.length - at, 1 << random.nextInt(13));
        Arrays.fill(bytes, at, at + length, (byte) 0);
        Files.write(file, bytes);
        return "%d bytes zeroed from byte %d on".formatted(length, at);
      }
      case 2, 3 -> {
        Path other = files.get(random.nextInt(files.size()));
        boolean exchanged = random.nextBoolean();
        if (exchanged) {
          Files.write(file, Files.readAllBytes(other));
        }
        Files.write(other, bytes);
        return (exchanged ? "exchanged with " : "copied over ") + other.getFileName();
      }
      case 4 -> {
        Files.delete(file);
        return "dropped";
      }
      default -> {
        Files.write(file, Arrays.copyOf(bytes, at));
        return "cut after %d of %d bytes".formatted(at, bytes.length);
      }
    }
  }

  /**
   * What is damaged.
   *
   * @param name for messages
   * @param options that are its own
   */
  private record Input(String name, Path directory, Consumer<ReshardOptions> options) {
    Input(String name, Path directory) {
      this(name, directory, options -> {});
    }
  }

  private List<Input> inputs() {
    List<Input> inputs = new ArrayList<>();
    GoldenCase.all().stream()
        .filter(c -> WORLD_SIZE % c.expertParallelSize() == 0)
        .filter(c -> Files.isDirectory(c.source()))
        .forEach(c -> inputs.add(new Input(c.name(), c.source())));
    for (String name : List.of("tp2-z1", "z2-fp32-twogroups", "z3-freeze-tie")) {
      inputs.add(new Input("universal " + name, TESTDATA.resolve("universal/0.19.8/" + name)));
    }
    for (String saved : List.of("qkv-z2/tp2dp1", "columns-z3/tp2dp2")) {
      Path open = temp.resolve("open-" + saved.replace('/', '-'));
      PipelineOptionsFactory.register(ExportOptions.class);
      ExportOptions options =
          Resharding.options(TESTDATA.resolve("tensor").resolve(saved), open, 1)
              .as(ExportOptions.class);
      options.setOptimizer(true);
      ExportPipeline.run(options, Resharding.SILENT);
      inputs.add(new Input("open state of " + saved, open));
    }
    inputs.addAll(otherDegrees());
    return inputs.stream().filter(input -> input.name().matches(ONLY)).toList();
  }

  private static List<Input> otherDegrees() {
    return List.of(
        tensor("frozen-z1/tp2dp2", 3, 1),
        tensor("frozen-z3/tp2dp2", 3, 3),
        tensor("columns-z2/tp3dp1", 2, 3),
        tensor("columns-z3/tp4dp1", 1, 1),
        tensor("qkv-z2/tp2dp1", 5, 2),
        tensor("cut-z1/tp2dp1", 4, 1),
        new Input(
            "experts ep2 to ep1",
            TESTDATA.resolve("degrees/moe-z2-split/source"),
            options -> {
              options.setTargetExpertParallelSize(1);
              options.setMaxGroupSize(80);
            }),
        stages("degrees/pipeline-tied/source", 1),
        stages("degrees/grid/p2t2d2", 1));
  }

  private static Input tensor(String saved, int ranks, int stage) {
    return new Input(
        "tensor ranks of " + saved,
        TESTDATA.resolve("tensor").resolve(saved),
        options -> {
          options.setTargetTensorParallelSize(ranks);
          options.setTargetStage(stage);
          options.setKvHeads(0);
          options.setVocabularyMultiple(4);
        });
  }

  private static Input stages(String saved, int stages) {
    return new Input(
        "stages of " + saved,
        TESTDATA.resolve(saved),
        options -> options.setTargetPipelineParallelSize(stages));
  }

  private static void reshard(Input golden, Path input, Path output) {
    ReshardOptions options = Resharding.options(input, output, WORLD_SIZE);
    golden.options().accept(options);
    Resharding.run(options);
  }

  /** All files but the manifest, which says when its source was last changed. */
  private static SortedMap<String, String> contents(Path output) {
    SortedMap<String, String> contents = new TreeMap<>(Scratch.contents(output));
    contents.keySet().removeIf(name -> name.endsWith("reshard-manifest.json"));
    return contents;
  }

  /**
   * Files that go along are copies, and the bytes around their zip entries have no CRC: a copy is
   * right that has each entry as it was.
   */
  private boolean isCarriedWhereNobodyReads(Input golden, Path file, Path input, Path output)
      throws IOException {
    return Files.exists(output.resolve(file))
        && Files.mismatch(input.resolve(file), output.resolve(file)) < 0
        && CheckpointComparison.with(want(golden)).firstDifference(output).isEmpty();
  }

  private Path want(Input golden) {
    return temp.resolve("want-" + golden.name().replace('/', '-'));
  }

  @Test
  void isRefusedOrHarmless() throws IOException {
    Random random = new Random(SEED);
    List<Input> cases = inputs();
    Map<Input, SortedMap<String, String>> undamaged = new HashMap<>();
    int refused = 0;
    int harmless = 0;
    for (int i = 0; i < COUNT; i++) {
      Input golden = cases.get(random.nextInt(cases.size()));
      if (!undamaged.containsKey(golden)) {
        Path want = want(golden);
        reshard(golden, golden.directory(), want);
        undamaged.put(golden, contents(want));
      }
      Path input = Scratch.copyOf(golden.directory(), temp.resolve("input-" + i));
      List<Path> files;
      try (Stream<Path> all = Files.walk(input)) {
        files = all.filter(path -> DAMAGED.matcher(path.toString()).find()).sorted().toList();
      }
      Path file = files.get(random.nextInt(files.size()));
      String what =
          "%s, %s: %s (seed %d, number %d)"
              .formatted(
                  golden.name(), input.relativize(file), damage(file, files, random), SEED, i);
      Path output = temp.resolve("output-" + i);
      try {
        reshard(golden, input, output);
        if (!isCarriedWhereNobodyReads(golden, input.relativize(file), input, output)) {
          assertThat(contents(output)).as(what).isEqualTo(undamaged.get(golden));
        }
        harmless++;
      } catch (RuntimeException e) {
        assertThat(Resharding.find(e, RefusedException.class)).as(what + ": " + e).isPresent();
        assertThat(output.resolve("latest")).as(what).doesNotExist();
        refused++;
      }
    }
    System.out.printf(
        "random damage, seed %d: %d checkpoints, %d refused, %d with the output of the undamaged"
            + " one%n",
        SEED, COUNT, refused, harmless);
    assertThat(refused).isPositive();
  }
}
