package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.Pickle;
import io.github.reshard.checkpoint.pickle.PickleReader;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.EOFException;
import java.io.IOException;
import java.io.Serializable;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.UnaryOperator;
import java.util.zip.CRC32;

/**
 * What a {@code torch.save} file holds and where, without the payloads of its storages. Independent
 * of the file once read.
 *
 * <p>A file whose directory is, byte for byte, the one that PyTorch would have written is read in
 * three ranges whatever its size (end, directory if it is large, everything before the first
 * storage): the planned layout gives the payload offsets. Of any other file the local headers are
 * read too.
 */
public final class TorchFile {
  /**
   * An entry of the container.
   *
   * @param name without the archive's prefix, such as {@code data/0}
   * @param headerOffset of the local header, in bytes from the start of the file
   * @param payloadOffset of the content
   * @param bytes the length of the content
   * @param crc32 of the content as the directory records it
   * @param flags the general-purpose flags
   */
  public record Entry(
      String name, long headerOffset, long payloadOffset, long bytes, int crc32, int flags)
      implements Serializable {
    Entry at(long payload) {
      return new Entry(name, headerOffset, payload, bytes, crc32, flags);
    }
  }

  private static final int END_RECORD = 22;
  private static final int ZIP64_LOCATOR = 20;
  private static final int ZIP64_RECORD = 56;
  private static final int DIRECTORY_HEADER = 46;
  private static final int LOCAL_HEADER = TorchFileLayout.LOCAL_HEADER;
  private static final int TAIL = 0xffff + END_RECORD + ZIP64_LOCATOR + ZIP64_RECORD;
  private static final int BEFORE_DIRECTORY = 4096;
  private static final int WINDOW = 64 * 1024;
  private static final int MOST_IN_MEMORY = Integer.MAX_VALUE - 16;
  private static final int SMALL_TEXT = 64;
  private static final byte[] LEGACY_MAGIC = {
    (byte) 0x80, 2, (byte) 0x8a, 10, 0x6c, (byte) 0xfc, (byte) 0x9c, 0x46, (byte) 0xf9
  };

  private final String path;
  private final String archiveName;
  private final byte[] pickle;
  private final byte[] serializationId;
  private final List<Entry> entries;
  private final Map<String, Entry> byName;
  private final ContainerStyle style;
  private final boolean reproducible;
  private final boolean hasCrcs;

  private TorchFile(
      String path,
      String archiveName,
      byte[] pickle,
      byte[] serializationId,
      List<Entry> entries,
      ContainerStyle style,
      boolean reproducible,
      boolean hasCrcs) {
    this.path = path;
    this.archiveName = archiveName;
    this.pickle = pickle;
    this.serializationId = serializationId;
    this.entries = List.copyOf(entries);
    this.byName = new HashMap<>();
    for (Entry entry : entries) {
      byName.put(entry.name(), entry);
    }
    this.style = style;
    this.reproducible = reproducible;
    this.hasCrcs = hasCrcs;
  }

  /**
   * Reads what there is to know about {@code file} but for its storages' payloads.
   *
   * @throws RefusedException if it is no sound {@code torch.save} container
   * @throws IOException if reading fails
   */
  public static TorchFile read(RangedFile file) throws IOException {
    return new Reading(file).run();
  }

  /**
   * The same file in less memory, for when there are thousands: without the entries of 0 bytes, of
   * which a ZeRO-3 model file has one for each parameter.
   *
   * @param share gives the one copy of equal pickles
   */
  public TorchFile compact(UnaryOperator<ByteBuffer> share) {
    return new TorchFile(
        path,
        archiveName,
        share.apply(ByteBuffer.wrap(pickle)).array(),
        serializationId,
        entries.stream().filter(entry -> entry.bytes() > 0).toList(),
        style,
        reproducible,
        hasCrcs);
  }

  /** Whether both say the same, whatever their storages hold. */
  public boolean hasPickleOf(TorchFile other) {
    return Arrays.equals(pickle, other.pickle);
  }

  /** The path, as messages show it. */
  public String path() {
    return path;
  }

  /** The prefix of all entry names, without its slash. */
  public String archiveName() {
    return archiveName;
  }

  /** The bytes of {@code data.pkl}. */
  public byte[] pickle() {
    return pickle.clone();
  }

  /** The object graph of {@code data.pkl}, a new one at each call, so that it may be edited. */
  public Pickle parse() {
    return PickleReader.read(pickle, path + ": " + archiveName + "/data.pkl");
  }

  /** All entries in the order of the file. */
  public List<Entry> entries() {
    return entries;
  }

  /** The entry of the storage that the pickle calls {@code key}. */
  public Optional<Entry> storage(String key) {
    return Optional.ofNullable(byName.get("data/" + key));
  }

  /** Whether CRCs are recorded: files written with {@code compute_crc32} off have 0 everywhere. */
  public boolean hasCrcs() {
    return hasCrcs;
  }

  /** The 40 digits of {@code .data/serialization_id}; empty if there is none. */
  public Optional<byte[]> serializationId() {
    return Optional.ofNullable(serializationId).map(byte[]::clone);
  }

  /**
   * How to write a file like this one; {@link ContainerStyle#PLAIN} unless {@link #reproducible()}.
   */
  public ContainerStyle style() {
    return style;
  }

  /** Whether {@link TorchFileLayout} gives this file's directory byte for byte. */
  public boolean reproducible() {
    return reproducible;
  }

  /** One call of {@link #read}. */
  private static final class Reading {
    private final RangedFile file;
    private final String path;
    private final long size;
    private byte[] window = new byte[0];
    private long windowAt;
    private byte[] tail = new byte[0];
    private long tailAt;

    Reading(RangedFile file) {
      this.file = file;
      this.path = file.path();
      this.size = file.size();
    }

    TorchFile run() throws IOException {
      tailAt = Math.max(0, size - TAIL);
      tail = readNow(tailAt, (int) (size - tailAt));
      int end = findEndRecord();
      long count = LittleEndian.u16(tail, end + 10);
      long directoryBytes = LittleEndian.u32(tail, end + 12);
      long directoryAt = LittleEndian.u32(tail, end + 16);
      long directoryEnd = tailAt + end;
      int locator = end - ZIP64_LOCATOR;
      if (locator >= 0 && LittleEndian.u32(tail, locator) == 0x07064b50) {
        long recordAt = LittleEndian.u64(tail, locator + 8);
        if (recordAt < 0 || recordAt > tailAt + locator - ZIP64_RECORD) {
          throw refused(
              "expected the zip64 end record before byte %d, the locator says %s"
                  .formatted(tailAt + locator, Long.toUnsignedString(recordAt)));
        }
        byte[] record = bytes(recordAt, ZIP64_RECORD);
        if (LittleEndian.u32(record, 0) != 0x06064b50) {
          throw refused(
              "expected the zip64 end record at byte %d, found something else".formatted(recordAt));
        }
        count = LittleEndian.u64(record, 32);
        directoryBytes = LittleEndian.u64(record, 40);
        directoryAt = LittleEndian.u64(record, 48);
        directoryEnd = recordAt;
      }
      if (directoryAt < 0
          || directoryBytes < 0
          || directoryBytes > MOST_IN_MEMORY
          || directoryAt > directoryEnd
          || directoryBytes != directoryEnd - directoryAt) {
        throw refused(
            "expected the directory to end at byte %d, found it at byte %s with %s bytes; the file is cut off or damaged"
                .formatted(
                    directoryEnd,
                    Long.toUnsignedString(directoryAt),
                    Long.toUnsignedString(directoryBytes)));
      }
      if (count < 0 || count > directoryBytes / DIRECTORY_HEADER) {
        throw refused(
            "expected entries in a directory of %d bytes, found %s of them"
                .formatted(directoryBytes, Long.toUnsignedString(count)));
      }
      extendTail(Math.max(0, directoryAt - BEFORE_DIRECTORY));
      byte[] directory = bytes(directoryAt, (int) directoryBytes);
      List<Entry> listed = parseDirectory(directory, (int) count, directoryAt);
      String archiveName = archiveName(listed);
      listed = withoutPrefix(listed, archiveName);
      requireEntries(listed);
      return locate(listed, archiveName, directory, directoryAt);
    }

    /**
     * One read for a large directory and for the small entries that precede it in PyTorch's files.
     */
    private void extendTail(long from) throws IOException {
      if (from < tailAt) {
        if (tail.length + tailAt - from > MOST_IN_MEMORY) {
          throw refused("the directory is larger than 2 GiB");
        }
        byte[] before = readNow(from, (int) (tailAt - from));
        byte[] longer = Arrays.copyOf(before, before.length + tail.length);
        System.arraycopy(tail, 0, longer, before.length, tail.length);
        tail = longer;
        tailAt = from;
      }
    }

    private int findEndRecord() throws IOException {
      for (int at = tail.length - END_RECORD; at >= 0; at--) {
        if (tail[at] == 'P'
            && LittleEndian.u32(tail, at) == 0x06054b50
            && at + END_RECORD + LittleEndian.u16(tail, at + 20) == tail.length) {
          return at;
        }
      }
      byte[] head = bytes(0, (int) Math.min(size, LEGACY_MAGIC.length));
      if (Arrays.equals(head, LEGACY_MAGIC)) {
        throw refused(
            "a torch.save stream of the format before PyTorch 1.6, as _use_new_zipfile_serialization=False (DeepSpeed: checkpoint_serialization false) still writes it; load it with torch.load and torch.save it again");
      }
      if (head.length >= 4 && LittleEndian.u32(head, 0) == 0x04034b50) {
        throw refused("the file is cut off: it starts as a torch.save file, but has no end record");
      }
      throw refused(
          "expected a torch.save file (a zip archive), found something else of %d bytes"
              .formatted(size));
    }

    private List<Entry> parseDirectory(byte[] in, int count, long directoryAt) {
      List<Entry> listed = new ArrayList<>(count);
      Set<String> names = new HashSet<>();
      int at = 0;
      for (int i = 0; i < count; i++) {
        if (in.length - at < DIRECTORY_HEADER || LittleEndian.u32(in, at) != 0x02014b50) {
          throw refused(
              "expected the header of entry %d of %d at byte %d, found something else"
                  .formatted(i + 1, count, directoryAt + at));
        }
        int nameBytes = LittleEndian.u16(in, at + 28);
        int extraBytes = LittleEndian.u16(in, at + 30);
        int extraAt = at + DIRECTORY_HEADER + nameBytes;
        int next = extraAt + extraBytes + LittleEndian.u16(in, at + 32);
        if (next > in.length) {
          throw refused("entry %d of %d does not end within the directory".formatted(i + 1, count));
        }
        String name = new String(in, at + DIRECTORY_HEADER, nameBytes, StandardCharsets.UTF_8);
        Entry entry = entryOf(in, at, name, extraAt, extraAt + extraBytes);
        if (entry.headerOffset() < 0
            || entry.bytes() < 0
            || entry.headerOffset() > directoryAt - LOCAL_HEADER - nameBytes
            || entry.bytes() > directoryAt - LOCAL_HEADER - nameBytes - entry.headerOffset()) {
          throw refused(
              "entry %s: %s bytes from byte %s do not fit before the directory at byte %d"
                  .formatted(
                      name,
                      Long.toUnsignedString(entry.bytes()),
                      Long.toUnsignedString(entry.headerOffset()),
                      directoryAt));
        }
        if (!names.add(name)) {
          throw refused("entry %s is there twice".formatted(name));
        }
        listed.add(entry);
        at = next;
      }
      if (at != in.length) {
        throw refused("expected %d entries in the directory, found more".formatted(count));
      }
      listed.sort(Comparator.comparingLong(Entry::headerOffset));
      return listed;
    }

    private Entry entryOf(byte[] in, int at, String name, int extraAt, int extraEnd) {
      int flags = LittleEndian.u16(in, at + 8);
      int method = LittleEndian.u16(in, at + 10);
      if ((flags & 0x2041) != 0) {
        throw refused("entry %s is encrypted".formatted(name));
      }
      if (method != 0) {
        throw refused(
            "entry %s is compressed (method %d): torch.save stores its entries; was the file zipped again?"
                .formatted(name, method));
      }
      long packed = LittleEndian.u32(in, at + 20);
      long bytes = LittleEndian.u32(in, at + 24);
      long headerOffset = LittleEndian.u32(in, at + 42);
      boolean largeBytes = bytes == 0xffffffffL;
      boolean largePacked = packed == 0xffffffffL;
      boolean largeOffset = headerOffset == 0xffffffffL;
      if (largeBytes || largePacked || largeOffset) {
        int field = zip64Field(in, extraAt, extraEnd);
        int wanted = (largeBytes ? 8 : 0) + (largePacked ? 8 : 0) + (largeOffset ? 8 : 0);
        if (field < 0 || LittleEndian.u16(in, field - 2) < wanted) {
          throw refused(
              "entry %s needs a zip64 field of %d bytes and has none".formatted(name, wanted));
        }
        if (largeBytes) {
          bytes = LittleEndian.u64(in, field);
          field += 8;
        }
        if (largePacked) {
          packed = LittleEndian.u64(in, field);
          field += 8;
        }
        if (largeOffset) {
          headerOffset = LittleEndian.u64(in, field);
        }
      }
      if (packed != bytes) {
        throw refused(
            "entry %s: stored, but its two sizes differ: %d and %d".formatted(name, packed, bytes));
      }
      return new Entry(name, headerOffset, -1, bytes, (int) LittleEndian.u32(in, at + 16), flags);
    }

    /** Where the content of the zip64 field starts, or -1. */
    private static int zip64Field(byte[] in, int from, int to) {
      int at = from;
      while (at + 4 <= to) {
        int length = LittleEndian.u16(in, at + 2);
        if (at + 4 + length > to) {
          return -1;
        }
        if (LittleEndian.u16(in, at) == 1) {
          return at + 4;
        }
        at += 4 + length;
      }
      return -1;
    }

    private String archiveName(List<Entry> listed) {
      for (Entry entry : listed) {
        if (entry.name().endsWith("/data.pkl")
            && entry.name().indexOf('/') == entry.name().length() - "/data.pkl".length()) {
          return entry.name().substring(0, entry.name().indexOf('/'));
        }
      }
      throw refused(
          "expected an entry NAME/data.pkl, found a zip archive without it: not a torch.save file");
    }

    private List<Entry> withoutPrefix(List<Entry> listed, String archiveName) {
      List<Entry> inside = new ArrayList<>(listed.size());
      String prefix = archiveName + "/";
      for (Entry entry : listed) {
        String name = entry.name();
        boolean climbs =
            name.indexOf('\\') >= 0 || Arrays.asList(name.split("/", -1)).contains("..");
        if (!name.startsWith(prefix) || climbs) {
          throw refused("entry %s lies outside of %s".formatted(name, prefix));
        }
        inside.add(
            new Entry(
                name.substring(prefix.length()),
                entry.headerOffset(),
                -1,
                entry.bytes(),
                entry.crc32(),
                entry.flags()));
      }
      return inside;
    }

    private void requireEntries(List<Entry> listed) {
      if (find(listed, "version").isEmpty()) {
        throw refused("expected an entry 'version', found none: not a torch.save file, or damaged");
      }
      if (find(listed, "constants.pkl").isPresent()) {
        throw refused("a TorchScript archive (it has constants.pkl), not a checkpoint");
      }
    }

    private static Optional<Entry> find(List<Entry> entries, String name) {
      return entries.stream().filter(e -> e.name().equals(name)).findFirst();
    }

    private TorchFile locate(
        List<Entry> listed, String archiveName, byte[] directory, long directoryAt)
        throws IOException {
      readHead(listed);
      List<Entry> small = new ArrayList<>();
      for (Entry entry : listed) {
        if (!entry.name().startsWith("data/")) {
          small.add(readLocalHeader(entry, archiveName));
        }
      }
      byte[] pickle = contentOf(small, "data.pkl", MOST_IN_MEMORY).orElseThrow();
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
      List<Entry> located = new ArrayList<>(listed.size());
      Optional<TorchFileLayout> layout =
          reproduce(style, archiveName, pickle, id, listed, directory, directoryAt);
      for (int i = 0; i < listed.size(); i++) {
        Entry entry = listed.get(i);
        located.add(
            layout.isPresent()
                ? entry.at(layout.get().entries().get(i).payloadOffset())
                : readLocalHeader(entry, archiveName));
      }
      Map<String, Entry> byName = new HashMap<>();
      located.forEach(entry -> byName.put(entry.name(), entry));
      for (Entry entry : small) {
        requireSame(entry, byName.get(entry.name()));
      }
      requireApart(located, directoryAt);
      return new TorchFile(
          path,
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
    private void readHead(List<Entry> listed) throws IOException {
      long pickleBytes = find(listed, "data.pkl").orElseThrow().bytes();
      long headEnd = tailAt;
      for (Entry entry : listed) {
        if (entry.name().startsWith("data/")) {
          headEnd = Math.min(headEnd, entry.headerOffset());
          break;
        }
      }
      if (headEnd <= pickleBytes + WINDOW && headEnd <= MOST_IN_MEMORY) {
        windowAt = 0;
        window = readNow(0, (int) headEnd);
      }
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
        List<Entry> listed,
        byte[] directory,
        long directoryAt) {
      List<StorageSize> storages = new ArrayList<>();
      Map<String, Integer> crcs = new HashMap<>();
      for (Entry entry : listed) {
        if (entry.name().startsWith("data/")) {
          String key = entry.name().substring("data/".length());
          storages.add(new StorageSize(key, entry.bytes()));
          crcs.put(key, entry.crc32());
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

    private Optional<byte[]> contentOf(List<Entry> located, String name, int most)
        throws IOException {
      Optional<Entry> entry = find(located, name);
      if (entry.isEmpty()) {
        return Optional.empty();
      }
      if (entry.get().bytes() > most) {
        throw refused(
            "entry %s: expected at most %d bytes, found %d"
                .formatted(name, most, entry.get().bytes()));
      }
      return Optional.of(bytes(entry.get().payloadOffset(), (int) entry.get().bytes()));
    }

    private Optional<String> textOf(List<Entry> located, String name) throws IOException {
      return contentOf(located, name, SMALL_TEXT)
          .map(bytes -> new String(bytes, StandardCharsets.ISO_8859_1));
    }

    /** The entry with its payload offset, which only the local header tells. */
    private Entry readLocalHeader(Entry entry, String archiveName) throws IOException {
      byte[] name = (archiveName + "/" + entry.name()).getBytes(StandardCharsets.UTF_8);
      byte[] header = windowed(entry.headerOffset(), LOCAL_HEADER + name.length);
      if (LittleEndian.u32(header, 0) != 0x04034b50) {
        throw refused(
            "entry %s: expected its local header at byte %d, found something else"
                .formatted(entry.name(), entry.headerOffset()));
      }
      int nameBytes = LittleEndian.u16(header, 26);
      if (nameBytes != name.length
          || !Arrays.equals(header, LOCAL_HEADER, header.length, name, 0, name.length)) {
        throw refused(
            "entry %s: its local header at byte %d has another name"
                .formatted(entry.name(), entry.headerOffset()));
      }
      if (LittleEndian.u16(header, 8) != 0 || (LittleEndian.u16(header, 6) & 0x2041) != 0) {
        throw refused(
            "entry %s: its local header at byte %d says compressed or encrypted"
                .formatted(entry.name(), entry.headerOffset()));
      }
      return entry.at(
          entry.headerOffset() + LOCAL_HEADER + nameBytes + LittleEndian.u16(header, 28));
    }

    private void requireCrc(Entry entry, byte[] content) {
      CRC32 crc = new CRC32();
      crc.update(content);
      if (entry.crc32() != (int) crc.getValue()) {
        throw refused(
            "entry %s: expected CRC %08x, found %08x: the file is damaged; copy it again"
                .formatted(entry.name(), entry.crc32(), (int) crc.getValue()));
      }
    }

    private void requireSame(Entry read, Entry planned) {
      if (read.payloadOffset() != planned.payloadOffset()) {
        throw refused(
            "entry %s: its local header puts the content at byte %d, the layout at byte %d"
                .formatted(read.name(), read.payloadOffset(), planned.payloadOffset()));
      }
    }

    private void requireApart(List<Entry> located, long directoryAt) {
      for (int i = 0; i < located.size(); i++) {
        Entry entry = located.get(i);
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

    private byte[] bytes(long at, int length) throws IOException {
      byte[] kept = kept(at, length);
      return kept != null ? kept : readNow(at, length);
    }

    /** As {@link #bytes}, reading ahead: local headers of small entries lie close together. */
    private byte[] windowed(long at, int length) throws IOException {
      byte[] kept = kept(at, length);
      if (kept != null) {
        return kept;
      }
      windowAt = at;
      window = readNow(at, (int) Math.min(Math.max(WINDOW, length), size - at));
      byte[] read = kept(at, length);
      if (read == null) {
        throw refused(
            "expected a local header at byte %d, found the end of the file".formatted(at));
      }
      return read;
    }

    private byte[] kept(long at, int length) {
      if (at >= tailAt && length <= tail.length - (at - tailAt)) {
        return Arrays.copyOfRange(tail, (int) (at - tailAt), (int) (at - tailAt) + length);
      }
      if (at >= windowAt && length <= window.length - (at - windowAt)) {
        return Arrays.copyOfRange(window, (int) (at - windowAt), (int) (at - windowAt) + length);
      }
      return null;
    }

    private byte[] readNow(long at, int length) throws IOException {
      byte[] bytes = new byte[length];
      try {
        file.readFully(at, ByteBuffer.wrap(bytes));
      } catch (EOFException e) {
        throw new RefusedException(
            path,
            "expected %d bytes from byte %d, the file ended before; it is being written?"
                .formatted(length, at),
            e);
      }
      return bytes;
    }

    private RefusedException refused(String problem) {
      return new RefusedException(path, problem);
    }
  }
}
