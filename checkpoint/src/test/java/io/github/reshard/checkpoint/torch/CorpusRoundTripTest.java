package io.github.reshard.checkpoint.torch;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.pickle.Pickle;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.testing.Corpus;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.CRC32;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class CorpusRoundTripTest {
  static List<Path> torchFiles() {
    return Corpus.torchFiles();
  }

  @Test
  void theCorpusIsThere() {
    assertThat(torchFiles()).hasSize(197);
  }

  @ParameterizedTest
  @MethodSource("torchFiles")
  void aPickleIsWrittenAsItWasRead(Path path) throws IOException {
    TorchFile file = read(path);
    Pickle pickle = file.parse();

    assertThat(PickleWriter.write(pickle.root(), pickle.protocol())).isEqualTo(file.pickle());
    assertThat(PyEquality.firstDifference(pickle.root(), file.parse().root())).isEmpty();
  }

  @ParameterizedTest
  @MethodSource("torchFiles")
  void theLayoutReproducesTheWholeFile(Path path) throws IOException {
    byte[] original = Files.readAllBytes(path);
    TorchFile file = read(path);
    assertThat(file.reproducible()).isTrue();
    assertThat(file.hasCrcs()).isTrue();

    assertThat(rebuilt(file, original)).isEqualTo(original);
  }

  @ParameterizedTest
  @MethodSource("torchFiles")
  void everyRecordedCrcIsThatOfTheBytesAtThePlannedOffset(Path path) throws IOException {
    byte[] original = Files.readAllBytes(path);
    for (TorchFile.Entry entry : read(path).entries()) {
      CRC32 crc = new CRC32();
      crc.update(original, (int) entry.payloadOffset(), (int) entry.bytes());
      assertThat((int) crc.getValue()).as(entry.name()).isEqualTo(entry.crc32());
    }
  }

  static TorchFile read(Path path) throws IOException {
    try (RangedFile file = Corpus.open(path)) {
      return TorchFile.read(file);
    }
  }

  /** The file from its plan and the payloads of its storages. */
  static byte[] rebuilt(TorchFile file, byte[] original) {
    List<StorageSize> sizes = new ArrayList<>();
    Map<String, Integer> crcs = new HashMap<>();
    Map<String, TorchFile.Entry> storages = new HashMap<>();
    for (TorchFile.Entry entry : file.entries()) {
      if (entry.name().startsWith("data/")) {
        String key = entry.name().substring("data/".length());
        sizes.add(new StorageSize(key, entry.bytes()));
        crcs.put(key, entry.crc32());
        storages.put(key, entry);
      }
    }
    TorchFileLayout layout =
        TorchFileLayout.plan(
            file.style(),
            file.archiveName(),
            file.pickle(),
            sizes,
            file.serializationId().orElse(new byte[0]));
    byte[] rebuilt = new byte[(int) layout.totalBytes()];
    Arrays.fill(rebuilt, (byte) 0xee);
    for (ByteSegment segment : layout.segments(crcs)) {
      System.arraycopy(segment.bytes(), 0, rebuilt, (int) segment.offset(), segment.bytes().length);
    }
    storages.forEach(
        (key, entry) ->
            System.arraycopy(
                original,
                (int) entry.payloadOffset(),
                rebuilt,
                (int) layout.payloadOffset(key),
                (int) entry.bytes()));
    return rebuilt;
  }
}
