package io.github.reshard.checkpoint.pickle;

import static org.assertj.core.api.Assertions.assertThat;

import com.code_intelligence.jazzer.junit.FuzzTest;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.torch.MemoryFile;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.testing.Corpus;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Optional;
import java.util.stream.Stream;
import org.junit.jupiter.params.provider.MethodSource;

/** Any bytes are a pickle that survives being written and read again, or they are refused. */
class PickleFuzzTest {
  static Stream<byte[]> seeds() {
    return Corpus.smallTorchFiles()
        .map(
            bytes -> {
              try {
                return TorchFile.read(new MemoryFile(bytes)).pickle();
              } catch (IOException e) {
                throw new UncheckedIOException(e);
              }
            });
  }

  @MethodSource("seeds")
  @FuzzTest
  void readsOrRefuses(byte[] bytes) {
    PyObject root;
    try {
      root = PickleReader.read(bytes, "fuzzed").root();
    } catch (RefusedException expected) {
      return;
    }
    for (int protocol = 2; protocol <= 5; protocol++) {
      writesWhatItRead(root, protocol);
    }
  }

  private static void writesWhatItRead(PyObject root, int protocol) {
    byte[] written;
    try {
      written = PickleWriter.write(root, protocol);
    } catch (RefusedException expected) {
      return;
    }
    PyObject again = PickleReader.read(written, "written").root();
    byte[] twice = PickleWriter.write(again, protocol);
    assertThat(twice).as("protocol %d", protocol).isEqualTo(written);
    // Before protocol 5 a bytearray is a call, before 3 bytes are, and before 4 sets are.
    if (protocol == 5) {
      Optional<String> difference = PyEquality.firstDifference(root, again);
      assertThat(difference).isEmpty();
    }
  }
}
