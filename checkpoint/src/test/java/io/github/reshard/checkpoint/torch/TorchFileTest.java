package io.github.reshard.checkpoint.torch;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyDict;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.stream.Stream;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

class TorchFileTest {
  private static final byte[] PICKLE = PickleWriter.write(new PyDict(), 2);
  private static final byte[] STORAGE = {1, 2, 3, 4, 5, 6, 7};

  @ParameterizedTest
  @ValueSource(ints = {0, 1, 1000, 10_000})
  void takesAtMostThreeReadsHoweverManyStorages(int count) throws IOException {
    List<StorageSize> storages = new ArrayList<>();
    Map<String, Integer> crcs = new LinkedHashMap<>();
    for (int i = 0; i < count; i++) {
      storages.add(new StorageSize(Integer.toString(i), 1000 + i % 7));
      crcs.put(Integer.toString(i), i);
    }
    byte[] bytes = skeleton(ContainerStyle.PLAIN, storages, crcs);
    MemoryFile file = new MemoryFile(bytes);
    TorchFile read = TorchFile.read(file);

    assertThat(read.reproducible()).isTrue();
    assertThat(read.entries()).hasSize(count + 4);
    assertThat(file.reads).isLessThanOrEqualTo(3);
    assertThat(file.bytesRead).isLessThan(100 * count + 100_000);
  }

  @Test
  void knowsTheStyleOfNewerPyTorch() throws IOException {
    ContainerStyle newer =
        new ContainerStyle(
            Optional.of("1"),
            Optional.of("4096"),
            Optional.of("little"),
            true,
            "3\n",
            ContainerStyle.StorageOrder.AS_GIVEN,
            4096,
            false);
    List<StorageSize> storages = new ArrayList<>();
    for (int i = 0; i < 12; i++) {
      storages.add(new StorageSize(Integer.toString(i), 5));
    }
    TorchFile read = TorchFile.read(new MemoryFile(skeleton(newer, storages, Map.of())));

    assertThat(read.style()).isEqualTo(newer);
    assertThat(read.hasCrcs()).isFalse();
    assertThat(read.storage("10").orElseThrow().payloadOffset()).isEqualTo(4096L * 15);
    assertThat(read.entries().stream().map(TorchFile.Entry::name).toList())
        .containsSubsequence("data/2", "data/10");
  }

  @Test
  void aZipOfAnotherWriterIsReadButNotImitated() throws IOException {
    byte[] bytes = zip(sound());
    TorchFile read = TorchFile.read(new MemoryFile(bytes));
    TorchFile.Entry storage = read.storage("0").orElseThrow();

    assertThat(read.reproducible()).isFalse();
    assertThat(read.style()).isEqualTo(ContainerStyle.PLAIN);
    assertThat(read.pickle()).isEqualTo(PICKLE);
    int from = (int) storage.payloadOffset();
    assertThat(Arrays.copyOfRange(bytes, from, from + (int) storage.bytes())).isEqualTo(STORAGE);
  }

  /** PyTorch before 2.1 wrote no byteorder; torch.load takes such files as little-endian. */
  @Test
  void byteorderMayBeMissing() throws IOException {
    Map<String, byte[]> entries = sound();
    entries.remove("a/byteorder");

    assertThat(TorchFile.read(new MemoryFile(zip(entries))).style().byteorder()).isPresent();
  }

  static Stream<Arguments> wrongEntries() {
    return Stream.of(
        wrong("no pickle", e -> e.remove("a/data.pkl"), "NAME/data.pkl"),
        wrong("no version", e -> e.remove("a/version"), "an entry 'version', found none"),
        wrong(
            "big-endian",
            e -> e.put("a/byteorder", ascii("big")),
            "byteorder 'little', found 'big'"),
        wrong("TorchScript", e -> e.put("a/constants.pkl", STORAGE), "a TorchScript archive"),
        wrong(
            "another prefix", e -> e.put("b/data/1", STORAGE), "entry b/data/1 lies outside of a/"),
        wrong("no prefix", e -> e.put("evil", STORAGE), "entry evil lies outside of a/"),
        wrong("climbing", e -> e.put("a/../../x", STORAGE), "entry a/../../x lies outside of a/"),
        wrong("backslash", e -> e.put("a/..\\x", STORAGE), "lies outside of a/"),
        wrong("huge text", e -> e.put("a/version", new byte[100]), "at most 64 bytes, found 100"));
  }

  private static Arguments wrong(
      String name, Consumer<Map<String, byte[]>> change, String message) {
    return Arguments.of(name, change, message);
  }

  @ParameterizedTest(name = "{0}")
  @MethodSource("wrongEntries")
  void wrongEntriesAreRefused(String name, Consumer<Map<String, byte[]>> change, String message)
      throws IOException {
    Map<String, byte[]> entries = sound();
    change.accept(entries);

    assertRefused(zip(entries), message);
  }

  @Test
  void compressedEntriesAreRefused() throws IOException {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    try (ZipOutputStream zip = new ZipOutputStream(out)) {
      zip.putNextEntry(new ZipEntry("a/data.pkl"));
      zip.write(PICKLE);
    }
    assertRefused(out.toByteArray(), "entry a/data.pkl is compressed (method 8)");
  }

  static Stream<Arguments> damage() {
    // Offsets are those of the directory's fields: APPNOTE.TXT 4.3.12, 4.3.14 to 4.3.16.
    return Stream.of(
        damaged("encrypted", b -> b[entry(b, 2) + 8] |= 1, "entry a/data/0 is encrypted"),
        damaged(
            "larger than the file",
            b -> b[entry(b, 2) + 22] = b[entry(b, 2) + 26] = 1,
            "do not fit before the directory"),
        damaged("sizes that differ", b -> b[entry(b, 2) + 20]++, "its two sizes differ: 8 and 7"),
        damaged(
            "offset beyond the file",
            b -> b[entry(b, 2) + 44] = 1,
            "do not fit before the directory"),
        damaged(
            "same offset twice",
            b -> copy(b, entry(b, 1) + 42, entry(b, 2) + 42, 4),
            "another name"),
        damaged(
            "same name twice", b -> b[entry(b, 3) + 46 + 7] = '0', "entry a/data/0 is there twice"),
        damaged(
            "no directory header", b -> b[entry(b, 2)] = 0, "expected the header of entry 3 of 6"),
        damaged(
            "too many entries",
            b -> b[b.length - 98 + 32] = 7,
            "expected the header of entry 7 of 7"),
        damaged(
            "too few entries",
            b -> b[b.length - 98 + 32] = 5,
            "expected 5 entries in the directory, found more"),
        damaged("absurd count", b -> b[b.length - 98 + 38] = 1, "found 281474976710662 of them"),
        damaged(
            "directory elsewhere",
            b -> b[b.length - 98 + 48]++,
            "expected the directory to end at byte"),
        damaged(
            "absurd directory size",
            b -> b[b.length - 98 + 47] = (byte) 0x80,
            "expected the directory to end at byte"),
        damaged(
            "zip64 record elsewhere",
            b -> b[b.length - 42 + 15] = 1,
            "expected the zip64 end record before byte"),
        damaged(
            "no zip64 record", b -> b[b.length - 98] = 0, "expected the zip64 end record at byte"),
        damaged(
            "zip64 value without field",
            b -> Arrays.fill(b, entry(b, 2) + 42, entry(b, 2) + 46, (byte) -1),
            "needs a zip64 field of 8 bytes and has none"),
        damaged("pickle damaged", b -> b[64] ^= 1, "entry data.pkl: expected CRC"),
        damaged(
            "local header of the pickle gone",
            b -> b[0] = 0,
            "entry data.pkl: expected its local header at byte 0"));
  }

  private static Arguments damaged(String name, Consumer<byte[]> change, String message) {
    return Arguments.of(name, change, message);
  }

  @ParameterizedTest(name = "{0}")
  @MethodSource("damage")
  void damageIsRefused(String name, Consumer<byte[]> change, String message) {
    byte[] bytes = small();
    change.accept(bytes);

    assertRefused(bytes, message);
  }

  @Test
  void overlappingEntriesAreRefused() throws IOException {
    byte[] bytes = zip(sound());
    int at = indexOf(bytes, "504b0102") + 46;
    // The first entry, data.pkl, grows over its neighbour and has the CRC of all that.
    CRC32 crc = new CRC32();
    crc.update(bytes, 40, 100);
    ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).putInt(at - 30, (int) crc.getValue());
    bytes[at - 26] = bytes[at - 22] = 100;

    assertRefused(bytes, "entry data.pkl: bytes 0 to 140 overlap entry byteorder");
  }

  @Test
  void aCrcOf0BesideOthersIsACrc() {
    byte[] bytes = small();
    Arrays.fill(bytes, entry(bytes, 0) + 16, entry(bytes, 0) + 20, (byte) 0);

    assertRefused(bytes, "entry data.pkl: expected CRC 00000000, found ");
  }

  @Test
  void otherFilesAreNamed() {
    assertRefused(new byte[0], "expected a torch.save file (a zip archive)");
    assertRefused(ascii("GIF89a"), "expected a torch.save file (a zip archive)");
    // torch.save(1, f, _use_new_zipfile_serialization=False), PyTorch 2.6.0
    assertRefused(
        HexFormat.of().parseHex("80028a0a6cfc9c46f9206aa850192e8002"),
        "_use_new_zipfile_serialization");
  }

  @Property(tries = 500)
  void aFileCutOffAnywhereIsRefused(@ForAll @IntRange(max = 100_000) int length) {
    byte[] bytes = small();
    byte[] cut = Arrays.copyOf(bytes, length % bytes.length);

    assertThatThrownBy(() -> TorchFile.read(new MemoryFile(cut)))
        .isInstanceOf(RefusedException.class);
  }

  @Property(tries = 1000)
  void aFileWithAByteChangedIsReadOrRefused(
      @ForAll @IntRange(max = 1000) int fromEnd, @ForAll byte value) throws IOException {
    byte[] bytes = small();
    bytes[bytes.length - 1 - fromEnd % bytes.length] = value;
    try {
      for (TorchFile.Entry entry : TorchFile.read(new MemoryFile(bytes)).entries()) {
        assertThat(entry.payloadOffset() + entry.bytes()).isLessThanOrEqualTo(bytes.length);
      }
    } catch (RefusedException expected) {
      assertThat(expected).hasMessageStartingWith("memory.pt: ");
    }
  }

  private static void assertRefused(byte[] bytes, String message) {
    assertThatThrownBy(() -> TorchFile.read(new MemoryFile(bytes)))
        .isInstanceOf(RefusedException.class)
        .hasMessageStartingWith("memory.pt: ")
        .hasMessageContaining(message);
  }

  private static byte[] small() {
    CRC32 crc = new CRC32();
    crc.update(STORAGE);
    return skeleton(
        ContainerStyle.PLAIN,
        List.of(new StorageSize("0", 7), new StorageSize("1", 7)),
        Map.of("0", (int) crc.getValue(), "1", (int) crc.getValue()));
  }

  /** A file whose storages hold zeros. */
  private static byte[] skeleton(
      ContainerStyle style, List<StorageSize> storages, Map<String, Integer> crcs) {
    byte[] id = TorchFileLayout.serializationId(PICKLE, storages);
    TorchFileLayout layout = TorchFileLayout.plan(style, "a", PICKLE, storages, id);
    byte[] bytes = new byte[(int) layout.totalBytes()];
    for (ByteSegment segment : layout.segments(crcs)) {
      System.arraycopy(segment.bytes(), 0, bytes, (int) segment.offset(), segment.bytes().length);
    }
    return bytes;
  }

  /** Where the directory header of entry {@code index} is. */
  private static int entry(byte[] bytes, int index) {
    int at = (int) LittleEndian.u64(bytes, bytes.length - 98 + 48);
    for (int i = 0; i < index; i++) {
      at += 46 + LittleEndian.u16(bytes, at + 28) + LittleEndian.u16(bytes, at + 30);
    }
    return at;
  }

  private static void copy(byte[] bytes, int from, int to, int length) {
    System.arraycopy(bytes, from, bytes, to, length);
  }

  private static int indexOf(byte[] bytes, String hex) {
    byte[] wanted = HexFormat.of().parseHex(hex);
    for (int i = 0; ; i++) {
      if (Arrays.equals(bytes, i, i + wanted.length, wanted, 0, wanted.length)) {
        return i;
      }
    }
  }

  private static Map<String, byte[]> sound() {
    Map<String, byte[]> entries = new LinkedHashMap<>();
    entries.put("a/data.pkl", PICKLE);
    entries.put("a/byteorder", ascii("little"));
    entries.put("a/data/0", STORAGE);
    entries.put("a/version", ascii("3\n"));
    return entries;
  }

  private static byte[] ascii(String text) {
    return text.getBytes(StandardCharsets.US_ASCII);
  }

  private static byte[] zip(Map<String, byte[]> entries) throws IOException {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    try (ZipOutputStream zip = new ZipOutputStream(out)) {
      for (Map.Entry<String, byte[]> e : entries.entrySet()) {
        ZipEntry entry = new ZipEntry(e.getKey());
        CRC32 crc = new CRC32();
        crc.update(e.getValue());
        entry.setMethod(ZipEntry.STORED);
        entry.setSize(e.getValue().length);
        entry.setCrc(crc.getValue());
        zip.putNextEntry(entry);
        zip.write(e.getValue());
      }
    }
    return out.toByteArray();
  }
}
