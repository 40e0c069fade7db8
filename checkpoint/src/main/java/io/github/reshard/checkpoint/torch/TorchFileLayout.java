package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.RefusedException;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.CRC32;

/**
 * Where every byte of a {@code torch.save} file lies, known before one is written: PyTorch's own
 * writer ({@code caffe2/serialize/inline_container.cc} and {@code third_party/miniz-3.0.2}) as a
 * pure function. All entries are stored. A local header has no sizes; a descriptor follows the
 * payload, except that of 0 bytes. An {@code FB} extra field aligns every payload. An entry of 4
 * GiB or beyond offset 4 GiB has a zip64 extra in both headers and a 24-byte descriptor.
 */
public final class TorchFileLayout {
  private static final String STORAGE_PREFIX = "data/";

  /**
   * An entry with its place; {@code name} lacks the archive's, {@code content} is null for a
   * storage, {@code storageKey} for any other.
   */
  @SuppressWarnings("ArrayRecordComponent") // Never compared.
  record Planned(
      String name,
      int fullNameBytes,
      long headerOffset,
      long payloadOffset,
      long bytes,
      int padding,
      byte[] content,
      String storageKey) {
    boolean zip64() {
      return bytes >= ZipFormat.ZIP64_FROM || headerOffset >= ZipFormat.ZIP64_FROM;
    }

    int flags() {
      return bytes == 0 ? ZipFormat.FLAG_UTF8 : ZipFormat.FLAG_UTF8 | ZipFormat.FLAG_DESCRIPTOR;
    }

    long end() {
      return payloadOffset
          + bytes
          + (bytes == 0 ? 0 : zip64() ? ZipFormat.ZIP64_DESCRIPTOR : ZipFormat.DESCRIPTOR);
    }
  }

  private final ContainerStyle style;
  private final byte[] prefix;
  private final List<Planned> entries;
  private final long directoryOffset;
  private final int directoryBytes;

  /** Made when it is first asked for: of a file that is read nobody asks. */
  private volatile Map<String, Long> payloadOffsets;

  private TorchFileLayout(ContainerStyle style, Planner planned) {
    this.style = style;
    this.prefix = planned.prefix;
    this.entries = planned.entries;
    this.directoryOffset = planned.cursor;
    this.directoryBytes = entries.stream().mapToInt(TorchFileLayout::directoryBytes).sum();
  }

  /**
   * Plans a file.
   *
   * @param archiveName the prefix of all entry names: the file's name up to its last dot
   * @param pickle the bytes of {@code data.pkl}
   * @param storages in the order in which the pickle first mentions them; laid out in the order of
   *     {@code style}
   * @param serializationId the 40 bytes of {@code .data/serialization_id}; not looked at for a
   *     style without it
   */
  public static TorchFileLayout plan(
      ContainerStyle style,
      String archiveName,
      byte[] pickle,
      List<StorageSize> storages,
      byte[] serializationId) {
    Planner planner = new Planner(archiveName, style.alignment());
    planner.add("data.pkl", pickle);
    style.formatVersion().ifPresent(text -> planner.add(".format_version", text(text)));
    style.storageAlignment().ifPresent(text -> planner.add(".storage_alignment", text(text)));
    style.byteorder().ifPresent(text -> planner.add("byteorder", text(text)));
    List<StorageSize> sorted = new ArrayList<>(storages);
    sorted.sort(Comparator.comparing(StorageSize::key));
    for (int i = 1; i < sorted.size(); i++) {
      if (sorted.get(i).key().equals(sorted.get(i - 1).key())) {
        throw new IllegalArgumentException("storage '" + sorted.get(i).key() + "' is there twice");
      }
    }
    boolean lexicographic = style.order() == ContainerStyle.StorageOrder.LEXICOGRAPHIC;
    (lexicographic ? sorted : storages).forEach(planner::addStorage);
    planner.add("version", text(style.version()));
    if (style.serializationId()) {
      planner.add(".data/serialization_id", serializationId);
    }
    return new TorchFileLayout(style, planner);
  }

  /**
   * Plans a file that no other one is the model of.
   *
   * @param fileName its name, after which {@code torch.save} names the archive
   * @param pickle the bytes of {@code data.pkl}
   * @param storages in the order in which the pickle first mentions them
   */
  public static TorchFileLayout planNew(
      String fileName, byte[] pickle, List<StorageSize> storages) {
    return planNew(ContainerStyle.PLAIN, fileName, pickle, storages);
  }

  /** The same in another style. */
  public static TorchFileLayout planNew(
      ContainerStyle style, String fileName, byte[] pickle, List<StorageSize> storages) {
    int dot = fileName.lastIndexOf('.');
    return plan(
        style,
        dot < 0 ? fileName : fileName.substring(0, dot),
        pickle,
        storages,
        serializationId(pickle, storages));
  }

  private static byte[] text(String text) {
    return text.getBytes(StandardCharsets.ISO_8859_1);
  }

  private static final class Planner {
    private final byte[] prefix;
    private final int alignment;
    private final List<Planned> entries = new ArrayList<>();
    private long cursor;

    Planner(String archiveName, int alignment) {
      this.prefix = (archiveName + "/").getBytes(StandardCharsets.UTF_8);
      this.alignment = alignment;
    }

    void add(String name, byte[] content) {
      place(name, content.length, content, null);
    }

    void addStorage(StorageSize storage) {
      if (storage.bytes() < 0) {
        throw new IllegalArgumentException(
            "storage '" + storage.key() + "' of " + storage.bytes() + " bytes");
      }
      place(STORAGE_PREFIX + storage.key(), storage.bytes(), null, storage.key());
    }

    private void place(String name, long bytes, byte[] content, String storageKey) {
      int fullNameBytes = prefix.length + name.getBytes(StandardCharsets.UTF_8).length;
      if (fullNameBytes > ZipFormat.MOST_16) {
        throw new RefusedException(
            new String(prefix, StandardCharsets.UTF_8),
            "entry names of more than 65535 bytes can not be written");
      }
      // getPadding of inline_container.cc: the FB field's own 4 bytes count, then what is missing
      // to the alignment.
      long start = cursor + ZipFormat.LOCAL_HEADER + fullNameBytes + ZipFormat.EXTRA_HEADER;
      start += zip64Bytes(bytes, cursor);
      int padding = (int) ((alignment - start % alignment) % alignment);
      Planned entry =
          new Planned(
              name, fullNameBytes, cursor, start + padding, bytes, padding, content, storageKey);
      entries.add(entry);
      if (entry.end() < cursor) {
        throw new RefusedException(
            new String(prefix, StandardCharsets.UTF_8), "the file would be larger than 2^63 bytes");
      }
      cursor = entry.end();
    }
  }

  /**
   * Both sizes if one is large, the offset if it is. In the local header PyTorch leaves the second
   * size 0: it is that after compression, which a streaming writer does not know yet.
   */
  private static void addZip64(LittleEndian out, long bytes, long packedBytes, long headerOffset) {
    int extra = zip64Bytes(bytes, headerOffset);
    if (extra == 0) {
      return;
    }
    out.u16(ZipFormat.ZIP64_EXTRA).u16(extra - ZipFormat.EXTRA_HEADER);
    if (bytes >= ZipFormat.ZIP64_FROM) {
      out.u64(bytes).u64(packedBytes);
    }
    if (headerOffset >= ZipFormat.ZIP64_FROM) {
      out.u64(headerOffset);
    }
  }

  private static int zip64Bytes(long bytes, long headerOffset) {
    int fields =
        (bytes >= ZipFormat.ZIP64_FROM ? 16 : 0) + (headerOffset >= ZipFormat.ZIP64_FROM ? 8 : 0);
    return fields == 0 ? 0 : ZipFormat.EXTRA_HEADER + fields;
  }

  /** The length of the file. */
  public long totalBytes() {
    return directoryOffset
        + directoryBytes
        + ZipFormat.ZIP64_END_RECORD
        + ZipFormat.ZIP64_LOCATOR
        + ZipFormat.END_RECORD;
  }

  /** Where the payload of a storage starts, in bytes from the start of the file. */
  public long payloadOffset(String storageKey) {
    Map<String, Long> offsets = payloadOffsets;
    if (offsets == null) {
      offsets = new HashMap<>(2 * entries.size());
      for (Planned entry : entries) {
        if (entry.storageKey() != null) {
          offsets.put(entry.storageKey(), entry.payloadOffset());
        }
      }
      payloadOffsets = offsets;
    }
    Long offset = offsets.get(storageKey);
    if (offset == null) {
      throw new IllegalArgumentException("no storage '" + storageKey + "'");
    }
    return offset;
  }

  /** All entries in the order of the file. */
  List<Planned> entries() {
    return entries;
  }

  long directoryOffset() {
    return directoryOffset;
  }

  /**
   * Every byte of the file that is not payload of a storage, in ascending runs as long as possible.
   *
   * @param storageCrcs the CRC-32 of every storage; not looked at for a style without CRCs
   */
  public List<ByteSegment> segments(Map<String, Integer> storageCrcs) {
    List<ByteSegment> segments = new ArrayList<>();
    long start = 0;
    LittleEndian run = new LittleEndian();
    for (Planned entry : entries) {
      addLocalHeader(run, entry);
      if (entry.content() != null) {
        run.raw(entry.content());
      } else if (entry.bytes() > 0) {
        segments.add(new ByteSegment(start, run.toByteArray()));
        run = new LittleEndian();
        start = entry.payloadOffset() + entry.bytes();
      }
      if (entry.bytes() > 0) {
        run.u32(ZipFormat.DESCRIPTOR_SIGNATURE).u32(crc(entry, storageCrcs));
        if (entry.zip64()) {
          run.u64(entry.bytes()).u64(entry.bytes());
        } else {
          run.u32(entry.bytes()).u32(entry.bytes());
        }
      }
    }
    addDirectory(run, storageCrcs);
    run.raw(endRecords());
    segments.add(new ByteSegment(start, run.toByteArray()));
    return segments;
  }

  private void addLocalHeader(LittleEndian out, Planned entry) {
    out.u32(ZipFormat.LOCAL_SIGNATURE)
        .u16(0)
        .u16(entry.flags())
        .u16(ZipFormat.STORED)
        .u32(0)
        .u32(0)
        .u32(0)
        .u32(0);
    out.u16(entry.fullNameBytes())
        .u16(
            zip64Bytes(entry.bytes(), entry.headerOffset())
                + ZipFormat.EXTRA_HEADER
                + entry.padding());
    out.raw(prefix).utf8(entry.name());
    addZip64(out, entry.bytes(), 0, entry.headerOffset());
    out.u16(ZipFormat.PADDING_EXTRA).u16(entry.padding());
    out.fill(ZipFormat.PADDING, entry.padding());
  }

  /** The central directory and all that follows it. */
  byte[] directoryAndEnd(Map<String, Integer> storageCrcs) {
    LittleEndian out = new LittleEndian((int) (totalBytes() - directoryOffset));
    addDirectory(out, storageCrcs);
    return out.raw(endRecords()).toByteArray();
  }

  private static int directoryBytes(Planned entry) {
    return ZipFormat.DIRECTORY_HEADER
        + entry.fullNameBytes()
        + zip64Bytes(entry.bytes(), entry.headerOffset());
  }

  private void addDirectory(LittleEndian out, Map<String, Integer> storageCrcs) {
    for (Planned entry : entries) {
      long bytes = Math.min(entry.bytes(), ZipFormat.ZIP64_FROM);
      out.u32(ZipFormat.DIRECTORY_SIGNATURE)
          .u16(0)
          .u16(0)
          .u16(entry.flags())
          .u16(ZipFormat.STORED)
          .u32(0);
      out.u32(crc(entry, storageCrcs)).u32(bytes).u32(bytes);
      out.u16(entry.fullNameBytes())
          .u16(zip64Bytes(entry.bytes(), entry.headerOffset()))
          .u16(0)
          .u16(0)
          .u16(0)
          .u32(0);
      out.u32(Math.min(entry.headerOffset(), ZipFormat.ZIP64_FROM)).raw(prefix).utf8(entry.name());
      addZip64(out, entry.bytes(), entry.bytes(), entry.headerOffset());
    }
  }

  private int crc(Planned entry, Map<String, Integer> storageCrcs) {
    if (!style.crcs() || entry.bytes() == 0) {
      return 0;
    }
    if (entry.content() != null) {
      CRC32 crc = new CRC32();
      crc.update(entry.content());
      return (int) crc.getValue();
    }
    Integer known = storageCrcs.get(entry.storageKey());
    if (known == null) {
      throw new IllegalArgumentException("no CRC for storage '" + entry.storageKey() + "'");
    }
    return known;
  }

  private byte[] endRecords() {
    int count = entries.size();
    LittleEndian out = new LittleEndian();
    out.u32(ZipFormat.ZIP64_END_SIGNATURE).u64(ZipFormat.ZIP64_END_REMAINING);
    out.u16(ZipFormat.MADE_BY).u16(ZipFormat.NEEDED).u32(0).u32(0).u64(count).u64(count);
    out.u64(directoryBytes).u64(directoryOffset);
    out.u32(ZipFormat.ZIP64_LOCATOR_SIGNATURE).u32(0).u64(directoryOffset + directoryBytes).u32(1);
    out.u32(ZipFormat.END_SIGNATURE)
        .u16(0)
        .u16(0)
        .u16(Math.min(count, ZipFormat.MOST_16))
        .u16(Math.min(count, ZipFormat.MOST_16));
    out.u32(directoryBytes).u32(Math.min(directoryOffset, ZipFormat.ZIP64_FROM)).u16(0);
    return out.toByteArray();
  }

  /**
   * A {@code .data/serialization_id} for a new file: 40 digits that depend on its content alone.
   * PyTorch's own are hashes of names and of CRCs that depend on its C++ library; nothing checks
   * them.
   */
  public static byte[] serializationId(byte[] pickle, List<StorageSize> storages) {
    MessageDigest digest;
    try {
      digest = MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every Java platform has SHA-256", e);
    }
    digest.update(pickle);
    for (StorageSize storage : storages) {
      digest.update(
          (storage.key() + "=" + storage.bytes() + "\n").getBytes(StandardCharsets.UTF_8));
    }
    byte[] hash = digest.digest();
    return text(twentyDigits(LittleEndian.u64(hash, 0)) + twentyDigits(LittleEndian.u64(hash, 8)));
  }

  private static String twentyDigits(long unsigned) {
    String digits = Long.toUnsignedString(unsigned);
    return "0".repeat(20 - digits.length()) + digits;
  }
}
