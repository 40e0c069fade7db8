package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.zip.CRC32;

/** One call of {@link TorchFile#read}. */
final class TorchFileReading {
  private static final int SMALL_TEXT = 64;

  private final KeptRanges ranges;

  private TorchFileReading(KeptRanges ranges) {
    this.ranges = ranges;
  }

  static TorchFile read(RangedFile file) throws IOException {
    KeptRanges ranges = new KeptRanges(file, ZipDirectory.MOST_BEHIND);
    ZipDirectory directory = ZipDirectory.read(ranges);
    TorchFileReading reading = new TorchFileReading(ranges);
    String archiveName = reading.archiveName(directory.entries());
    List<TorchFile.Entry> listed = reading.withoutPrefix(directory.entries(), archiveName);
    reading.requireEntries(listed);
    return reading.locate(listed, archiveName, directory.content(), directory.offset());
  }

  private String archiveName(List<TorchFile.Entry> listed) {
    for (TorchFile.Entry entry : listed) {
      if (entry.name().endsWith("/data.pkl")
          && entry.name().indexOf('/') == entry.name().length() - "/data.pkl".length()) {
        return entry.name().substring(0, entry.name().indexOf('/'));
      }
    }
    throw refused(
        "expected an entry NAME/data.pkl, found a zip archive without it: not a torch.save file");
  }

  private List<TorchFile.Entry> withoutPrefix(List<TorchFile.Entry> listed, String archiveName) {
    List<TorchFile.Entry> inside = new ArrayList<>(listed.size());
    String prefix = archiveName + "/";
    for (TorchFile.Entry entry : listed) {
      String name = entry.name();
      if (!name.startsWith(prefix) || climbs(name)) {
        throw refused("entry %s lies outside of %s".formatted(name, prefix));
      }
      inside.add(
          new TorchFile.Entry(
              name.substring(prefix.length()),
              entry.headerOffset(),
              -1,
              entry.bytes(),
              entry.crc32(),
              entry.flags()));
    }
    return inside;
  }

  private static boolean climbs(String name) {
    return name.indexOf('\\') >= 0
        || (name.contains("..") && Arrays.asList(name.split("/", -1)).contains(".."));
  }

  private void requireEntries(List<TorchFile.Entry> listed) {
    if (find(listed, "version").isEmpty()) {
      throw refused("expected an entry 'version', found none: not a torch.save file, or damaged");
    }
    if (find(listed, "constants.pkl").isPresent()) {
      throw refused("a TorchScript archive (it has constants.pkl), not a checkpoint");
    }
  }

  private static Optional<TorchFile.Entry> find(List<TorchFile.Entry> entries, String name) {
    return entries.stream().filter(e -> e.name().equals(name)).findFirst();
  }

  private TorchFile locate(
      List<TorchFile.Entry> listed, String archiveName, byte[] directory, long directoryAt)
      throws IOException {
    readHead(listed);
    List<TorchFile.Entry> small = new ArrayList<>();
    for (TorchFile.Entry entry : listed) {
      if (!entry.name().startsWith("data/")) {
        small.add(readLocalHeader(entry, archiveName));
      }
    }
    byte[] pickle = contentOf(small, "data.pkl", TorchFile.MOST_IN_MEMORY).orElseThrow();
    boolean hasCrcs = listed.stream().anyMatch(e -> e.crc32() != 0);
    if (hasCrcs) {
      requireCrc(find(small, "data.pkl").orElseThrow(), pickle);
    }
    Optional<byte[]> id = contentOf(small, ".data/serialization_id", SMALL_TEXT);
    Optional<String> byteorder = textOf(small, "byteorder");
    if (byteorder.isPresent() && !byteorder.get().equals("little")) {
      throw refused(
          "expected byteorder 'little', found '%s': load and save it again on a little-endian machine"
              .formatted(byteorder.get()));
    }
    Optional<String> formatVersion = textOf(small, ".format_version");
    Optional<String> alignment = textOf(small, ".storage_alignment");
    ContainerStyle style =
        new ContainerStyle(
            formatVersion,
            alignment,
            byteorder,
            id.isPresent(),
            textOf(small, "version").orElseThrow(),
            formatVersion.isPresent()
                ? ContainerStyle.StorageOrder.AS_GIVEN
                : ContainerStyle.StorageOrder.LEXICOGRAPHIC,
            alignmentOf(alignment),
            hasCrcs);
    List<TorchFile.Entry> located = new ArrayList<>(listed.size());
    Optional<TorchFileLayout> layout =
        reproduce(style, archiveName, pickle, id, listed, directory, directoryAt);
    for (int i = 0; i < listed.size(); i++) {
      TorchFile.Entry entry = listed.get(i);
      located.add(
          layout.isPresent()
              ? entry.at(layout.get().entries().get(i).payloadOffset())
              : readLocalHeader(entry, archiveName));
    }
    Iterator<TorchFile.Entry> read = small.iterator();
    for (TorchFile.Entry entry : located) {
      if (!entry.name().startsWith("data/")) {
        requireSame(read.next(), entry);
      }
    }
    requireApart(located, directoryAt);
    return new TorchFile(
        ranges.path(),
        archiveName,
        pickle,
        id.orElse(null),
        located,
        layout.isPresent() ? style : ContainerStyle.PLAIN.withCrcs(hasCrcs),
        layout.isPresent(),
        hasCrcs);
  }

  /**
   * One read for data.pkl and its neighbours, which in PyTorch's files precede the first storage.
   */
  private void readHead(List<TorchFile.Entry> listed) throws IOException {
    long pickleBytes = find(listed, "data.pkl").orElseThrow().bytes();
    long headEnd = ranges.tailAt();
    for (TorchFile.Entry entry : listed) {
      if (entry.name().startsWith("data/")) {
        headEnd = Math.min(headEnd, entry.headerOffset());
        break;
      }
    }
    ranges.keepHead(headEnd, pickleBytes);
  }

  private static int alignmentOf(Optional<String> text) {
    if (text.isEmpty()) {
      return ContainerStyle.DEFAULT_ALIGNMENT;
    }
    boolean sound = text.get().matches("[1-9][0-9]{0,4}");
    int alignment = sound ? Integer.parseInt(text.get()) : ContainerStyle.DEFAULT_ALIGNMENT;
    // The padding's length has 16 bits.
    return alignment <= 0x10000 ? alignment : ContainerStyle.DEFAULT_ALIGNMENT;
  }

  private static Optional<TorchFileLayout> reproduce(
      ContainerStyle style,
      String archiveName,
      byte[] pickle,
      Optional<byte[]> id,
      List<TorchFile.Entry> listed,
      byte[] directory,
      long directoryAt) {
    List<StorageSize> storages = new ArrayList<>();
    Map<String, Integer> crcs = new HashMap<>();
    for (TorchFile.Entry entry : listed) {
      if (entry.name().startsWith("data/")) {
        String key = entry.name().substring("data/".length());
        storages.add(new StorageSize(key, entry.bytes()));
        if (entry.bytes() > 0) {
          crcs.put(key, entry.crc32());
        }
      }
    }
    TorchFileLayout layout =
        TorchFileLayout.plan(style, archiveName, pickle, storages, id.orElse(new byte[0]));
    byte[] planned = layout.directoryAndEnd(crcs);
    boolean same =
        layout.directoryOffset() == directoryAt
            && planned.length >= directory.length
            && Arrays.equals(planned, 0, directory.length, directory, 0, directory.length);
    return same ? Optional.of(layout) : Optional.empty();
  }

  private Optional<byte[]> contentOf(List<TorchFile.Entry> located, String name, int most)
      throws IOException {
    Optional<TorchFile.Entry> entry = find(located, name);
    if (entry.isEmpty()) {
      return Optional.empty();
    }
    if (entry.get().bytes() > most) {
      throw refused(
          "entry %s: expected at most %d bytes, found %d"
              .formatted(name, most, entry.get().bytes()));
    }
    return Optional.of(ranges.bytes(entry.get().payloadOffset(), (int) entry.get().bytes()));
  }

  private Optional<String> textOf(List<TorchFile.Entry> located, String name) throws IOException {
    return contentOf(located, name, SMALL_TEXT)
        .map(bytes -> new String(bytes, StandardCharsets.ISO_8859_1));
  }

  /** The entry with its payload offset, which only the local header tells. */
  private TorchFile.Entry readLocalHeader(TorchFile.Entry entry, String archiveName)
      throws IOException {
    byte[] name = (archiveName + "/" + entry.name()).getBytes(StandardCharsets.UTF_8);
    byte[] header = ranges.windowed(entry.headerOffset(), ZipFormat.LOCAL_HEADER + name.length);
    if (LittleEndian.u32(header, 0) != ZipFormat.LOCAL_SIGNATURE) {
      throw refused(
          "entry %s: expected its local header at byte %d, found something else"
              .formatted(entry.name(), entry.headerOffset()));
    }
    int nameBytes = LittleEndian.u16(header, ZipFormat.LOCAL_NAME_BYTES);
    if (nameBytes != name.length
        || !Arrays.equals(header, ZipFormat.LOCAL_HEADER, header.length, name, 0, name.length)) {
      throw refused(
          "entry %s: its local header at byte %d has another name"
              .formatted(entry.name(), entry.headerOffset()));
    }
    if (LittleEndian.u16(header, ZipFormat.LOCAL_METHOD) != ZipFormat.STORED
        || (LittleEndian.u16(header, ZipFormat.LOCAL_FLAGS) & ZipFormat.FLAGS_ENCRYPTED) != 0) {
      throw refused(
          "entry %s: its local header at byte %d says compressed or encrypted"
              .formatted(entry.name(), entry.headerOffset()));
    }
    return entry.at(
        entry.headerOffset()
            + ZipFormat.LOCAL_HEADER
            + nameBytes
            + LittleEndian.u16(header, ZipFormat.LOCAL_EXTRA_BYTES));
  }

  private void requireCrc(TorchFile.Entry entry, byte[] content) {
    CRC32 crc = new CRC32();
    crc.update(content);
    if (entry.crc32() != (int) crc.getValue()) {
      throw refused(
          "entry %s: expected CRC %08x, found %08x: the file is damaged; copy it again"
              .formatted(entry.name(), entry.crc32(), (int) crc.getValue()));
    }
  }

  private void requireSame(TorchFile.Entry read, TorchFile.Entry planned) {
    if (read.payloadOffset() != planned.payloadOffset()) {
      throw refused(
          "entry %s: its local header puts the content at byte %d, the layout at byte %d"
              .formatted(read.name(), read.payloadOffset(), planned.payloadOffset()));
    }
  }

  private void requireApart(List<TorchFile.Entry> located, long directoryAt) {
    for (int i = 0; i < located.size(); i++) {
      TorchFile.Entry entry = located.get(i);
      boolean last = i == located.size() - 1;
      long limit = last ? directoryAt : located.get(i + 1).headerOffset();
      if (entry.payloadOffset() > limit || entry.bytes() > limit - entry.payloadOffset()) {
        throw refused(
            "entry %s: bytes %d to %d overlap %s at byte %d"
                .formatted(
                    entry.name(),
                    entry.headerOffset(),
                    entry.payloadOffset() + entry.bytes(),
                    last ? "the directory" : "entry " + located.get(i + 1).name(),
                    limit));
      }
    }
  }

  private RefusedException refused(String problem) {
    return new RefusedException(ranges.path(), problem);
  }
}
