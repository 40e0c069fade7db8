package io.github.reshard.checkpoint.safetensors;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.safetensors.SafetensorsLayout.Tensor;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.MemoryFile;
import io.github.reshard.testing.Corpus;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.Combinators;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class SafetensorsLayoutTest {
  private static final Path GOLDEN = Corpus.ROOT.resolveSibling("safetensors");

  /** The files of testdata/safetensors are laid out to the byte as safetensors 0.8.0 did. */
  @ParameterizedTest
  @ValueSource(strings = {"types", "names"})
  void aFileIsLaidOutAsTheReferenceImplementationDoes(String name) throws IOException {
    Path path = GOLDEN.resolve(name + ".safetensors");
    SafetensorsFile golden = SafetensorsFile.read(Corpus.open(path));
    List<Tensor> tensors = new ArrayList<>();
    golden.tensors().forEach((n, t) -> tensors.add(new Tensor(n, t.dtype(), t.shape())));
    Collections.shuffle(tensors, new Random(1));

    SafetensorsLayout layout =
        SafetensorsLayout.of(
            tensors, name.equals("types") ? SafetensorsLayout.OF_PYTORCH : Map.of());

    byte[] content = Files.readAllBytes(path);
    assertThat(layout.header()).isEqualTo(Arrays.copyOf(content, layout.header().length));
    assertThat(layout.bytes()).isEqualTo(content.length);
    golden.tensors().forEach((n, t) -> assertThat(layout.offsets()).containsEntry(n, t.offset()));
  }

  @Provide
  Arbitrary<List<Tensor>> tensors() {
    Arbitrary<Tensor> tensor =
        Combinators.combine(
                Arbitraries.strings().ofMaxLength(12),
                Arbitraries.of(SafetensorsType.values()).map(SafetensorsType::dtype),
                Arbitraries.longs().between(0, 5).list().ofMaxSize(4))
            .as(Tensor::new);
    return tensor
        .list()
        .uniqueElements(Tensor::name)
        .ofMaxSize(12)
        .filter(all -> all.stream().allMatch(t -> isText(t.name())));
  }

  /** Half a surrogate pair is no text that a file could hold. */
  private static boolean isText(String name) {
    return StandardCharsets.UTF_8.newEncoder().canEncode(name) && !name.equals("__metadata__");
  }

  @Property(tries = 300)
  void whatIsLaidOutIsRead(@ForAll("tensors") List<Tensor> tensors) throws IOException {
    SafetensorsLayout layout = SafetensorsLayout.of(tensors, SafetensorsLayout.OF_PYTORCH);

    byte[] file = Arrays.copyOf(layout.header(), Math.toIntExact(layout.bytes()));
    SafetensorsFile read = SafetensorsFile.read(new MemoryFile(file));

    Map<String, SafetensorsFile.Tensor> expected = new LinkedHashMap<>();
    for (Tensor t : tensors) {
      expected.put(
          t.name(),
          new SafetensorsFile.Tensor(
              t.dtype(), t.shape(), layout.offsets().get(t.name()), t.bytes()));
    }
    assertThat(read.tensors()).isEqualTo(expected);
    assertThat(layout.header().length % 8).isZero();
    tensors.forEach(t -> assertThat(layout.offsets().get(t.name()) % t.dtype().bytes()).isZero());
  }

  @Test
  void twoTensorsOfOneNameAreNoFile() {
    Tensor tensor = new Tensor("a", DType.FLOAT32, List.of(1L));

    assertThatThrownBy(() -> SafetensorsLayout.of(List.of(tensor, tensor), Map.of()))
        .hasMessageContaining("two tensors a");
    assertThatThrownBy(
            () ->
                SafetensorsLayout.of(
                    List.of(new Tensor("__metadata__", DType.INT8, List.of())), Map.of()))
        .hasMessageContaining("__metadata__");
  }

  @Test
  void aTypeWithoutANameIsNoFile() {
    assertThat(SafetensorsLayout.supports(DType.COMPLEX128)).isFalse();
    assertThatThrownBy(
            () ->
                SafetensorsLayout.of(
                    List.of(new Tensor("a", DType.COMPLEX128, List.of())), Map.of()))
        .hasMessageContaining("no name for the type of a, complex128");
  }
}
