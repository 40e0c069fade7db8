package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.RefusedException;
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

  private static String damage(Path file, Random random) throws IOException {
    byte[] bytes = Files.readAllBytes(file);
    int at = random.nextInt(bytes.length);
    switch (random.nextInt(4)) {
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
      case 2 -> {
        Files.delete(file);
        return "dropped";
      }
      default -> {
        Files.write(file, Arrays.copyOf(bytes, at));
        return "cut after %d of %d bytes".formatted(at, bytes.length);
      }
    }
  }

  /** What is damaged, by a name for messages. */
  private record Input(String name, Path directory) {}

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
    return inputs.stream().filter(input -> input.name().matches(ONLY)).toList();
  }

  private static void reshard(Path input, Path output) {
    Resharding.run(Resharding.options(input, output, WORLD_SIZE));
  }

  /** All files but the manifest, which says when its source was last changed. */
  private static SortedMap<String, String> contents(Path output) {
    SortedMap<String, String> contents = new TreeMap<>(Scratch.contents(output));
    contents.keySet().removeIf(name -> name.endsWith("reshard-manifest.json"));
    return contents;
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
        Path want = temp.resolve("want-" + golden.name());
        reshard(golden.directory(), want);
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
              .formatted(golden.name(), input.relativize(file), damage(file, random), SEED, i);
      Path output = temp.resolve("output-" + i);
      try {
        reshard(input, output);
        assertThat(contents(output)).as(what).isEqualTo(undamaged.get(golden));
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
