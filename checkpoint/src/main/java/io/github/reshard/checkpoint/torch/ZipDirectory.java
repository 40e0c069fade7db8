package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.RefusedException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/**
 * The central directory of a zip archive.
 *
 * @param offset where it begins, in bytes from the start of the file
 * @param content its bytes
 * @param entries what it lists, in the order of the file, under their full names; where payloads
 *     begin it does not say
 */
@SuppressWarnings("ArrayRecordComponent") // Never compared.
record ZipDirectory(long offset, byte[] content, List<TorchFile.Entry> entries) {
  /** The most that can follow the directory: both end records, the locator and a comment. */
  static final int MOST_BEHIND =
      ZipFormat.MOST_16
          + ZipFormat.END_RECORD
          + ZipFormat.ZIP64_LOCATOR
          + ZipFormat.ZIP64_END_RECORD;

  /** The small entries that PyTorch writes last are worth one read with the directory. */
  private static final int BEFORE_DIRECTORY = 4096;

  /** The first line of a pointer (github.com/git-lfs/git-lfs, docs/spec.md). */
  private static final String LFS = "version https://git-lfs.github.com/spec/";

  private static final byte[] LEGACY_MAGIC = {
    (byte) 0x80, 2, (byte) 0x8a, 10, 0x6c, (byte) 0xfc, (byte) 0x9c, 0x46, (byte) 0xf9
  };

  /** Finds and reads the directory of the file. */
  static ZipDirectory read(KeptRanges ranges) throws IOException {
    byte[] tail = ranges.tail();
    int end = findEndRecord(ranges);
    long count = LittleEndian.u16(tail, end + ZipFormat.END_COUNT);
    long bytes = LittleEndian.u32(tail, end + ZipFormat.END_DIRECTORY_BYTES);
    long offset = LittleEndian.u32(tail, end + ZipFormat.END_DIRECTORY_OFFSET);
    long directoryEnd = ranges.tailAt() + end;
    int locator = end - ZipFormat.ZIP64_LOCATOR;
    if (locator >= 0 && LittleEndian.u32(tail, locator) == ZipFormat.ZIP64_LOCATOR_SIGNATURE) {
      long recordAt = LittleEndian.u64(tail, locator + ZipFormat.ZIP64_LOCATOR_OFFSET);
      if (recordAt < 0 || recordAt > ranges.tailAt() + locator - ZipFormat.ZIP64_END_RECORD) {
        throw new RefusedException(
            ranges.path(),
            "expected the zip64 end record before byte %d, the locator says %s"
                .formatted(ranges.tailAt() + locator, Long.toUnsignedString(recordAt)));
      }
      byte[] record = ranges.bytes(recordAt, ZipFormat.ZIP64_END_RECORD);
      if (LittleEndian.u32(record, 0) != ZipFormat.ZIP64_END_SIGNATURE) {
        throw new RefusedException(
            ranges.path(),
            "expected the zip64 end record at byte %d, found something else".formatted(recordAt));
      }
      count = LittleEndian.u64(record, ZipFormat.ZIP64_END_COUNT);
      bytes = LittleEndian.u64(record, ZipFormat.ZIP64_END_DIRECTORY_BYTES);
      offset = LittleEndian.u64(record, ZipFormat.ZIP64_END_DIRECTORY_OFFSET);
      directoryEnd = recordAt;
    }
    if (offset < 0
        || bytes < 0
        || bytes > TorchFile.MOST_IN_MEMORY
        || offset > directoryEnd
        || bytes != directoryEnd - offset) {
      throw new RefusedException(
          ranges.path(),
          "expected the directory to end at byte %d, found it at byte %s with %s bytes; the file is cut off or damaged"
              .formatted(
                  directoryEnd, Long.toUnsignedString(offset), Long.toUnsignedString(bytes)));
    }
    if (count < 0 || count > bytes / ZipFormat.DIRECTORY_HEADER) {
      throw new RefusedException(
          ranges.path(),
          "expected entries in a directory of %d bytes, found %s of them"
              .formatted(bytes, Long.toUnsignedString(count)));
    }
    ranges.extendTail(Math.max(0, offset - BEFORE_DIRECTORY));
    byte[] content = ranges.bytes(offset, (int) bytes);
    return new ZipDirectory(offset, content, parse(ranges.path(), content, (int) count, offset));
  }

  private static int findEndRecord(KeptRanges ranges) throws IOException {
    byte[] tail = ranges.tail();
    for (int at = tail.length - ZipFormat.END_RECORD; at >= 0; at--) {
      if (tail[at] == 'P'
          && LittleEndian.u32(tail, at) == ZipFormat.END_SIGNATURE
          && at + ZipFormat.END_RECORD + LittleEndian.u16(tail, at + ZipFormat.END_COMMENT_BYTES)
              == tail.length) {
        return at;
      }
    }
    byte[] head = ranges.bytes(0, (int) Math.min(ranges.size(), LEGACY_MAGIC.length));
    if (Arrays.equals(head, LEGACY_MAGIC)) {
      throw new RefusedException(
          ranges.path(),
          "a torch.save stream of the format before PyTorch 1.6, as"
              + " _use_new_zipfile_serialization=False (DeepSpeed: checkpoint_serialization false)"
              + " still writes it; load it with torch.load and torch.save it again");
    }
    byte[] text = ranges.bytes(0, (int) Math.min(ranges.size(), LFS.length()));
    if (new String(text, StandardCharsets.ISO_8859_1).equals(LFS)) {
      throw new RefusedException(
          ranges.path(),
          "this is a Git LFS pointer, which stands for the file and is not it: run `git lfs pull`"
              + " in its repository");
    }
    if (head.length >= 4 && LittleEndian.u32(head, 0) == ZipFormat.LOCAL_SIGNATURE) {
      throw new RefusedException(
          ranges.path(),
          "the file is cut off: it starts as a torch.save file, but has no end record");
    }
    throw new RefusedException(
        ranges.path(),
        "expected a torch.save file (a zip archive), found something else of %d bytes"
            .formatted(ranges.size()));
  }

  private static List<TorchFile.Entry> parse(String path, byte[] in, int count, long directoryAt) {
    List<TorchFile.Entry> listed = new ArrayList<>(count);
    Set<String> names = new HashSet<>(2 * count);
    int at = 0;
    for (int i = 0; i < count; i++) {
      if (in.length - at < ZipFormat.DIRECTORY_HEADER
          || LittleEndian.u32(in, at) != ZipFormat.DIRECTORY_SIGNATURE) {
        throw new RefusedException(
            path,
            "expected the header of entry %d of %d at byte %d, found something else"
                .formatted(i + 1, count, directoryAt + at));
      }
      int nameBytes = LittleEndian.u16(in, at + ZipFormat.DIRECTORY_NAME_BYTES);
      int extraBytes = LittleEndian.u16(in, at + ZipFormat.DIRECTORY_EXTRA_BYTES);
      int extraAt = at + ZipFormat.DIRECTORY_HEADER + nameBytes;
      int next =
          extraAt + extraBytes + LittleEndian.u16(in, at + ZipFormat.DIRECTORY_COMMENT_BYTES);
      if (next > in.length) {
        throw new RefusedException(
            path, "entry %d of %d does not end within the directory".formatted(i + 1, count));
      }
      String name =
          new String(in, at + ZipFormat.DIRECTORY_HEADER, nameBytes, StandardCharsets.UTF_8);
      TorchFile.Entry entry = entryOf(path, in, at, name, extraAt, extraAt + extraBytes);
      if (entry.headerOffset() < 0
          || entry.bytes() < 0
          || entry.headerOffset() > directoryAt - ZipFormat.LOCAL_HEADER - nameBytes
          || entry.bytes()
              > directoryAt - ZipFormat.LOCAL_HEADER - nameBytes - entry.headerOffset()) {
        throw new RefusedException(
            path,
            "entry %s: %s bytes from byte %s do not fit before the directory at byte %d"
                .formatted(
                    name,
                    Long.toUnsignedString(entry.bytes()),
                    Long.toUnsignedString(entry.headerOffset()),
                    directoryAt));
      }
      if (!names.add(name)) {
        throw new RefusedException(path, "entry %s is there twice".formatted(name));
      }
      listed.add(entry);
      at = next;
    }
    if (at != in.length) {
      throw new RefusedException(
          path, "expected %d entries in the directory, found more".formatted(count));
    }
    listed.sort(Comparator.comparingLong(TorchFile.Entry::headerOffset));
    return listed;
  }

  private static TorchFile.Entry entryOf(
      String path, byte[] in, int at, String name, int extraAt, int extraEnd) {
    int flags = LittleEndian.u16(in, at + ZipFormat.DIRECTORY_FLAGS);
    int method = LittleEndian.u16(in, at + ZipFormat.DIRECTORY_METHOD);
    if ((flags & ZipFormat.FLAGS_ENCRYPTED) != 0) {
      throw new RefusedException(path, "entry %s is encrypted".formatted(name));
    }
    if (method != ZipFormat.STORED) {
      throw new RefusedException(
          path,
          "entry %s is compressed (method %d): torch.save stores its entries; was the file zipped again?"
              .formatted(name, method));
    }
    long packed = LittleEndian.u32(in, at + ZipFormat.DIRECTORY_PACKED_BYTES);
    long bytes = LittleEndian.u32(in, at + ZipFormat.DIRECTORY_BYTES);
    long headerOffset = LittleEndian.u32(in, at + ZipFormat.DIRECTORY_HEADER_OFFSET);
    boolean largeBytes = bytes == ZipFormat.ZIP64_FROM;
    boolean largePacked = packed == ZipFormat.ZIP64_FROM;
    boolean largeOffset = headerOffset == ZipFormat.ZIP64_FROM;
    if (largeBytes || largePacked || largeOffset) {
      int field = zip64Field(in, extraAt, extraEnd);
      int wanted = (largeBytes ? 8 : 0) + (largePacked ? 8 : 0) + (largeOffset ? 8 : 0);
      if (field < 0 || LittleEndian.u16(in, field - 2) < wanted) {
        throw new RefusedException(
            path, "entry %s needs a zip64 field of %d bytes and has none".formatted(name, wanted));
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
      throw new RefusedException(
          path,
          "entry %s: stored, but its two sizes differ: %d and %d".formatted(name, packed, bytes));
    }
    return new TorchFile.Entry(
        name,
        headerOffset,
        -1,
        bytes,
        (int) LittleEndian.u32(in, at + ZipFormat.DIRECTORY_CRC),
        flags);
  }

  /** Where the content of the zip64 field starts, or -1. */
  private static int zip64Field(byte[] in, int from, int to) {
    int at = from;
    while (at + ZipFormat.EXTRA_HEADER <= to) {
      int length = LittleEndian.u16(in, at + 2);
      if (at + ZipFormat.EXTRA_HEADER + length > to) {
        return -1;
      }
      if (LittleEndian.u16(in, at) == ZipFormat.ZIP64_EXTRA) {
        return at + ZipFormat.EXTRA_HEADER;
      }
      at += ZipFormat.EXTRA_HEADER + length;
    }
    return -1;
  }
}
