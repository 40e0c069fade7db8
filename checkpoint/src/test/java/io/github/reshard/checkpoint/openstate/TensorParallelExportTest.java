package io.github.reshard.checkpoint.openstate;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Safetensors;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.SourceCopy;
import io.github.reshard.testing.TorchContent;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Weights and states of tensor-parallel ranks, joined: those of the checkpoint that DeepSpeed saved
 * of the same state on one tensor-parallel rank.
 */
class TensorParallelExportTest {
  private static final Path TENSOR = Path.of(System.getProperty("reshard.testdata"), "tensor");

  /** What was exported of the checkpoints of one rank, with which several are compared. */
  private static final Map<Path, Map<String, byte[]>> OF_ONE_RANK = new HashMap<>();

  private static final Optional<DType> AS_SAVED = Optional.empty();
  private static final Optional<DType> MASTERS = Optional.of(DType.FLOAT32);

  @TempDir Path temp;

  /** Directories of one state at several degrees. */
  static Stream<List<Path>> degrees() throws IOException {
    try (Stream<Path> cases = Files.list(TENSOR)) {
      return cases.filter(Files::isDirectory).sorted().toList().stream()
          .flatMap(
              state -> {
                try (Stream<Path> saved = Files.list(state)) {
                  List<Path> all = saved.sorted().toList();
                  Path one =
                      all.stream()
                          .filter(path -> path.getFileName().toString().startsWith("tp1"))
                          .findFirst()
                          .orElseThrow();
                  return all.stream().filter(path -> path != one).map(path -> List.of(path, one));
                } catch (IOException e) {
                  throw new UncheckedIOException(e);
                }
              });
    }
  }

  private Path run(Path input, String name, Optional<DType> dtype) {
    Path output = temp.resolve(name);
    WithoutBeam.export(input, output, dtype);
    return output;
  }

  private Map<String, byte[]> export(Path input, String name, Optional<DType> dtype) {
    Path output = run(input, name, dtype);
    Map<String, byte[]> tensors =
        new TreeMap<>(Safetensors.read(output.resolve("model.safetensors")));
    tensors.putAll(Safetensors.read(output.resolve("optimizer.safetensors")));
    return tensors;
  }

  @ParameterizedTest
  @MethodSource("degrees")
  void theyAreThoseOfOneRank(List<Path> pair) {
    assertThat(export(pair.get(0), "own", AS_SAVED))
        .containsExactlyInAnyOrderEntriesOf(
            OF_ONE_RANK.computeIfAbsent(pair.get(1), one -> export(one, "one", AS_SAVED)));
  }

  /** The masters are the weights then, and still those of the module's weights. */
  @Test
  void weightsOfAnotherTypeAreTheMastersJoined() {
    assertThat(export(TENSOR.resolve("qkv-z2/tp5dp1"), "own", MASTERS))
        .containsExactlyInAnyOrderEntriesOf(
            export(TENSOR.resolve("qkv-z2/tp1dp2"), "one", MASTERS));
  }

  /** What DeepSpeed's own converter joins of the corpus's case. */
  @Test
  void theMastersAreThoseOfDeepSpeedsConverter() throws IOException {
    Map<String, byte[]> found = export(GoldenCase.of("tp2-z1").source(), "corpus", MASTERS);
    found.keySet().removeIf(name -> name.contains(".exp_avg"));

    Path zero =
        Path.of(
            System.getProperty("reshard.testdata"),
            "universal/0.19.8/tp2-z1/global_step3_universal/zero");
    for (Map.Entry<String, byte[]> tensor : found.entrySet()) {
      assertThat(tensor.getValue())
          .as(tensor.getKey())
          .isEqualTo(onlyStorage(zero.resolve(tensor.getKey()).resolve("fp32.pt")));
    }
    assertThat(found).hasSize(14);
  }

  private static byte[] onlyStorage(Path path) throws IOException {
    TorchFile.Entry entry = TorchContent.read(path).file().storage("0").orElseThrow();
    int from = (int) entry.payloadOffset();
    return Arrays.copyOfRange(Files.readAllBytes(path), from, from + (int) entry.bytes());
  }

  /** Rows behind the end of a vocabulary are nobody's: 37 of 40 are written, of 12 numbers. */
  @ParameterizedTest
  @ValueSource(strings = {"cut-z1/tp1dp2", "cut-z1/tp4dp1", "cut-z3/tp2dp1"})
  void aPaddedVocabularyEndsWhereItEnds(String saved) {
    Map<String, byte[]> found = export(TENSOR.resolve(saved), "out", MASTERS);

    assertThat(found.get("word_embeddings_weight")).hasSize(37 * 12 * Float.BYTES);
  }

  @Test
  void nativeFilesAreNotMadeWithoutTheRowsThatARunHas() {
    Path open = run(TENSOR.resolve("cut-z1/tp2dp1"), "open", AS_SAVED);

    assertThatThrownBy(() -> OpenStateSource.find(new LocalSourceStore(), open.toString()))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("more than one model-parallel rank");
  }

  /** Each rank has all of a norm, and they have to be alike. */
  @Test
  void copiesThatDifferAreRefused() throws IOException {
    Path copy = Scratch.copyOf(GoldenCase.of("tp2-z1").source(), temp.resolve("copy"));
    new SourceCopy(copy, "global_step3")
        .change(
            "bf16_zero_pp_rank_0_mp_rank_01_optim_states.pt", "0", TensorParallelExportTest::flip);

    assertThatThrownBy(() -> run(copy, "out", AS_SAVED))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("copy");
  }

  private static void flip(ByteBuffer bytes) {
    bytes.put(2, (byte) (bytes.get(2) ^ 4));
  }
}
