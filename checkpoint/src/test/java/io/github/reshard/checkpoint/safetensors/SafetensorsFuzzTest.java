package io.github.reshard.checkpoint.safetensors;

import static org.assertj.core.api.Assertions.assertThat;

import com.code_intelligence.jazzer.junit.FuzzTest;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.torch.MemoryFile;
import io.github.reshard.testing.Corpus;
import java.io.IOException;
import java.util.stream.Stream;
import org.junit.jupiter.params.provider.MethodSource;

/** Any bytes are a safetensors file whose tensors fill it exactly, or they are refused. */
class SafetensorsFuzzTest {
  static Stream<byte[]> seeds() {
    return Corpus.smallSafetensors();
  }

  @MethodSource("seeds")
  @FuzzTest
  void readsOrRefuses(byte[] bytes) throws IOException {
    SafetensorsFile file;
    try {
      file = SafetensorsFile.read(new MemoryFile(bytes));
    } catch (RefusedException expected) {
      return;
    }
    long covered = 0;
    for (SafetensorsFile.Tensor tensor : file.tensors().values()) {
      long elements = 1;
      for (long extent : tensor.shape()) {
        elements = Math.multiplyExact(elements, extent);
      }
      assertThat(tensor.bytes()).isEqualTo(elements * tensor.dtype().bytes());
      assertThat(tensor.offset()).isBetween(8L, bytes.length - tensor.bytes());
      covered += tensor.bytes();
    }
    assertThat(covered).isLessThanOrEqualTo(bytes.length - 8L);
  }
}
