package io.github.reshard.checkpoint.pickle;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Pickles that CPython 3.11 wrote: {@code testdata/pickles/make_pickles.py}. */
class GoldenPickleTest {
  private static final Path ROOT = Path.of(System.getProperty("reshard.testdata"), "pickles");

  static List<Path> pickles() throws IOException {
    return list(false);
  }

  static List<Path> refusedPickles() throws IOException {
    return list(true);
  }

  private static List<Path> list(boolean refused) throws IOException {
    try (Stream<Path> files = Files.list(ROOT)) {
      return files
          .filter(p -> p.toString().endsWith(".pkl"))
          .filter(p -> p.getFileName().toString().startsWith("refused-") == refused)
          .sorted()
          .toList();
    }
  }

  @ParameterizedTest
  @MethodSource("pickles")
  void isWrittenAsCPythonWroteIt(Path path) throws IOException {
    byte[] original = Files.readAllBytes(path);
    Pickle pickle = PickleReader.read(original, path.toString());

    assertThat(path.getFileName().toString()).contains(".p" + pickle.protocol() + ".");
    assertThat(PickleWriter.write(pickle.root(), pickle.protocol())).isEqualTo(original);
  }

  @ParameterizedTest
  @MethodSource("pickles")
  void equalsItself(Path path) throws IOException {
    byte[] original = Files.readAllBytes(path);

    assertThat(
            PyEquality.firstDifference(
                PickleReader.read(original, "a").root(), PickleReader.read(original, "b").root()))
        .isEmpty();
  }

  @ParameterizedTest
  @MethodSource("pickles")
  void survivesAnotherProtocol(Path path) throws IOException {
    Pickle pickle = PickleReader.read(Files.readAllBytes(path), path.toString());
    byte[] again = PickleWriter.write(pickle.root(), 5);

    assertThat(PyEquality.firstDifference(pickle.root(), PickleReader.read(again, "again").root()))
        .isEmpty();
  }

  @ParameterizedTest
  @MethodSource("refusedPickles")
  void isRefusedByName(Path path) throws IOException {
    byte[] original = Files.readAllBytes(path);

    assertThatThrownBy(() -> PickleReader.read(original, "F"))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("F: pickle byte")
        .hasMessageContaining("opcode POP")
        .hasMessageContaining("is made and dropped");
  }
}
