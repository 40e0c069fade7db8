package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.testing.ShardComparison;
import io.github.reshard.testing.TorchContent;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What workers prove of shards that a user saved, and how shards become visible. */
class UserShardsTest {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));
  private static final Path CASES = TESTDATA.resolve("usershards");

  @TempDir Path directory;

  private Path output() {
    return directory.resolve("output");
  }

  private ReshardReport reshard(Path input, int worldSize, String... more) {
    return reshard(input, output(), worldSize, more);
  }

  private static ReshardReport reshard(Path input, Path output, int worldSize, String... more) {
    ReshardOptions options = Resharding.options(input, output, worldSize);
    for (String option : more) {
      String value = option.substring(option.indexOf('=') + 1);
      switch (option.substring(0, option.indexOf('='))) {
        case "model" -> options.setModel(value);
        case "overwrite" -> options.setOverwrite(true);
        default -> throw new IllegalArgumentException(option);
      }
    }
    return Resharding.run(Resharding.checked(options));
  }

  private static String shard(int rank) {
    return "optimizer.%02d.pt".formatted(rank);
  }

  private static List<String> names(Path directory) {
    try (Stream<Path> files = Files.list(directory)) {
      return files.map(file -> file.getFileName().toString()).sorted().toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private Path copied(Path from) throws IOException {
    Path copy = Files.createDirectories(directory.resolve("input"));
    for (String name : names(from)) {
      Files.copy(from.resolve(name), copy.resolve(name));
    }
    return copy;
  }

  @ParameterizedTest
  @ValueSource(strings = {"z1-fp32", "z2-fp16-twogroups", "z2-bf16"})
  void thePlainOrderIsProvenByTheModel(String name) {
    assertThat(reshard(CASES.resolve(name).resolve("user"), 4, "model=pytorch_model.bin"))
        .satisfies(
            report -> {
              assertThat(report.notes())
                  .anyMatch(note -> note.contains("is the plain one: in that order, and not"));
              assertThat(report.proven())
                  .anyMatch(proof -> proof.startsWith("the master weights of 12 parameters"));
            });
  }

  @Test
  void theModelMayBeSafetensorsInParts() throws IOException {
    Path user = copied(CASES.resolve("z2-bf16/user"));
    Map<String, byte[]> weights = weights(user.resolve("pytorch_model.bin"));
    Map<String, byte[]> half = new TreeMap<>();
    Map<String, byte[]> rest = new TreeMap<>();
    weights.forEach((name, bytes) -> (half.size() < 6 ? half : rest).put(name, bytes));
    writeSafetensors(user.resolve("model-1.safetensors"), half);
    writeSafetensors(user.resolve("model-2.safetensors"), rest);
    StringBuilder map = new StringBuilder();
    half.keySet().forEach(name -> map.append(",\"%s\":\"model-1.safetensors\"".formatted(name)));
    rest.keySet().forEach(name -> map.append(",\"%s\":\"model-2.safetensors\"".formatted(name)));
    Files.writeString(
        user.resolve("model.safetensors.index.json"),
        "{\"metadata\":{},\"weight_map\":{%s}}".formatted(map.substring(1)));

    ReshardReport report = reshard(user, 2, "model=model.safetensors.index.json");

    assertThat(report.proven())
        .anyMatch(proof -> proof.startsWith("the master weights of 12 parameters"));
    assertThat(names(output()))
        .contains("model-1.safetensors", "model-2.safetensors", "pytorch_model.bin");
  }

  @Test
  void parametersOfZero3AreFoundByTheirValues() throws IOException {
    Path reference = CASES.resolve("z3-fp32/reference-3");
    ReshardReport report = reshard(CASES.resolve("z3-fp32/user"), 3, "model=pytorch_model.bin");

    assertThat(report.proven())
        .anyMatch(proof -> proof.startsWith("the master weights of 12 parameters"));
    assertThat(report.notes()).anyMatch(note -> note.contains("DeepSpeed's default of 1000000000"));
    for (int rank = 0; rank < 3; rank++) {
      assertThat(
              ShardComparison.firstDifference(
                  reference.resolve(shard(rank)), null, output().resolve(shard(rank))))
          .isEmpty();
    }
  }

  @Test
  void anOutputThatIsThereIsReplacedOnlyWhenAsked() throws IOException {
    Path user = CASES.resolve("z2-bf16/user");
    reshard(user, 3);

    assertThatThrownBy(() -> reshard(user, 2))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("is not empty");
    reshard(user, 2, "overwrite=true");
    assertThat(names(output()))
        .containsExactly(shard(0), shard(1), "pytorch_model.bin", "reshard-manifest.json");

    Files.writeString(output().resolve("thesis.tex"), "the only copy");
    assertThatThrownBy(() -> reshard(user, 2, "overwrite=true"))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("thesis.tex");
    assertThat(output().resolve("thesis.tex")).exists();
    assertThat(names(directory)).containsExactly("output");
  }

  @Test
  void aRerunRepairsACrashWhilePublishing() throws IOException {
    Path user = CASES.resolve("z2-bf16/user");
    reshard(user, 3);
    // As after a crash between the two renames of a run with --overwrite.
    Files.move(output(), directory.resolve(".reshard-output.replaced"));
    Files.createFile(directory.resolve(".reshard-output.publishing"));
    Files.createDirectories(directory.resolve(".reshard-output.unpublished/killed"));
    reshard(user, 2);
    assertThat(names(directory)).containsExactly("output");
    // As after a crash behind them.
    Files.createFile(directory.resolve(".reshard-output.publishing"));
    reshard(user, 2);
    assertThat(names(directory)).containsExactly("output");
    assertThat(names(output())).contains(shard(0), shard(1)).doesNotContain(shard(2));
  }

  private static Map<String, byte[]> weights(Path model) {
    TorchContent content = TorchContent.read(model);
    Map<String, byte[]> weights = new TreeMap<>();
    content
        .tensors()
        .forEach(
            (name, tensor) -> {
              if (!name.equals("scale")) {
                weights.put(name, content.tensor(tensor));
              }
            });
    return weights;
  }

  /** One row of bf16 elements each. */
  private static void writeSafetensors(Path path, Map<String, byte[]> tensors) throws IOException {
    StringBuilder header = new StringBuilder("{\"__metadata__\":{\"format\":\"pt\"}");
    int at = 0;
    for (Map.Entry<String, byte[]> tensor : tensors.entrySet()) {
      int bytes = tensor.getValue().length;
      header.append(
          ",\"%s\":{\"dtype\":\"BF16\",\"shape\":[%d],\"data_offsets\":[%d,%d]}"
              .formatted(tensor.getKey(), bytes / 2, at, at + bytes));
      at += bytes;
    }
    byte[] json = header.append("}").toString().getBytes(StandardCharsets.UTF_8);
    ByteBuffer file = ByteBuffer.allocate(8 + json.length + at).order(ByteOrder.LITTLE_ENDIAN);
    file.putLong(json.length).put(json);
    tensors.values().forEach(file::put);
    Files.write(path, file.array());
  }
}
