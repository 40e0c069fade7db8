package io.github.reshard.checkpoint.torch;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.testing.Corpus;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.zip.CRC32;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * Storages and offsets beyond 4 GiB, against what PyTorch 2.6.0 wrote: {@code
 * testdata/large/make_large.py}. The file is sparse. {@code -Dreshard.large=PATH} keeps it, for
 * {@code scripts/interop large}.
 */
@Tag("large")
class LargeFileTest {
  private static final long BIG = 4831838208L;
  private static final byte[] A = HexFormat.of().parseHex("000000000000803f00000040");
  private static final byte[] C =
      HexFormat.of()
          .parseHex(
              "00000000000000000100000000000000020000000000000003000000000000000400000000000000");
  private static final List<StorageSize> STORAGES =
      List.of(
          new StorageSize("0", A.length),
          new StorageSize("1", BIG),
          new StorageSize("2", 0),
          new StorageSize("3", C.length),
          new StorageSize("4", BIG));
  private static final Map<String, Integer> CRCS =
      Map.of(
          "0", crc(A),
          "1", Crc32Combine.ofZeros(BIG),
          "2", 0,
          "3", crc(C),
          "4", Crc32Combine.ofZeros(BIG));

  @TempDir Path directory;
  private long goldenBytes;
  private byte[] pickle;
  private byte[] serializationId;
  private final List<ByteSegment> golden = new ArrayList<>();

  @BeforeEach
  void readGolden() throws IOException {
    Path skeleton = Path.of(System.getProperty("reshard.testdata"), "large", "skeleton.txt");
    for (String line : Files.readAllLines(skeleton)) {
      String value = line.substring(line.indexOf(' ') + 1);
      switch (line.substring(0, line.indexOf(' '))) {
        case "bytes" -> goldenBytes = Long.parseLong(value);
        case "pickle" -> pickle = HexFormat.of().parseHex(value);
        case "serialization_id" -> serializationId = value.getBytes(StandardCharsets.US_ASCII);
        default ->
            golden.add(
                new ByteSegment(
                    Long.parseLong(line.substring(0, line.indexOf(' '))),
                    HexFormat.of().parseHex(value)));
      }
    }
  }

  @Test
  void isLaidOutAsPyTorchDoesAndReadBack() throws IOException {
    TorchFileLayout layout =
        TorchFileLayout.plan(ContainerStyle.PLAIN, "archive", pickle, STORAGES, serializationId);
    assertThat(layout.totalBytes()).isEqualTo(goldenBytes);

    Path path =
        Path.of(System.getProperty("reshard.large", directory.resolve("large.pt").toString()));
    Files.deleteIfExists(path);
    try (FileChannel channel =
        FileChannel.open(
            path,
            Set.of(
                StandardOpenOption.CREATE_NEW,
                StandardOpenOption.WRITE,
                StandardOpenOption.READ,
                StandardOpenOption.SPARSE))) {
      for (ByteSegment segment : layout.segments(CRCS)) {
        write(channel, segment.offset(), segment.bytes());
      }
      write(channel, layout.payloadOffset("0"), A);
      write(channel, layout.payloadOffset("3"), C);
      assertThat(channel.size()).isEqualTo(goldenBytes);
      for (ByteSegment expected : golden) {
        ByteBuffer found = ByteBuffer.allocate(expected.bytes().length);
        while (found.hasRemaining()
            && channel.read(found, expected.offset() + found.position()) >= 0) {}
        assertThat(found.array()).as("from byte %d", expected.offset()).isEqualTo(expected.bytes());
      }
    }

    try (RangedFile file = Corpus.open(path)) {
      TorchFile read = TorchFile.read(file);
      assertThat(read.reproducible()).isTrue();
      for (StorageSize storage : STORAGES) {
        TorchFile.Entry entry = read.storage(storage.key()).orElseThrow();
        assertThat(entry.bytes()).isEqualTo(storage.bytes());
        assertThat(entry.payloadOffset()).isEqualTo(layout.payloadOffset(storage.key()));
        assertThat(entry.crc32()).isEqualTo(CRCS.get(storage.key()));
      }
    }
  }

  private static void write(FileChannel channel, long at, byte[] bytes) throws IOException {
    ByteBuffer buffer = ByteBuffer.wrap(bytes);
    while (buffer.hasRemaining()) {
      channel.write(buffer, at + buffer.position());
    }
  }

  private static int crc(byte[] bytes) {
    CRC32 crc = new CRC32();
    crc.update(bytes);
    return (int) crc.getValue();
  }
}
