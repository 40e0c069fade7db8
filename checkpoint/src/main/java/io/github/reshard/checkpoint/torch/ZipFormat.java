package io.github.reshard.checkpoint.torch;

/**
 * The numbers of the zip format (PKWARE's APPNOTE.TXT 6.3.10) as PyTorch uses it ({@code
 * caffe2/serialize/inline_container.cc}, {@code third_party/miniz-3.0.2}): signatures, sizes of
 * records in bytes, and where in a record a field begins.
 */
final class ZipFormat {
  private ZipFormat() {}

  /** Sizes and offsets from here on do not fit a field of 32 bits and stand in a zip64 extra. */
  static final long ZIP64_FROM = 0xffffffffL;

  /** The most that a field of 16 bits holds. */
  static final int MOST_16 = 0xffff;

  static final int LOCAL_SIGNATURE = 0x04034b50;
  static final int LOCAL_HEADER = 30;
  static final int LOCAL_FLAGS = 6;
  static final int LOCAL_METHOD = 8;
  static final int LOCAL_NAME_BYTES = 26;
  static final int LOCAL_EXTRA_BYTES = 28;

  static final int DESCRIPTOR_SIGNATURE = 0x08074b50;
  static final int DESCRIPTOR = 16;
  static final int ZIP64_DESCRIPTOR = 24;

  static final int DIRECTORY_SIGNATURE = 0x02014b50;
  static final int DIRECTORY_HEADER = 46;
  static final int DIRECTORY_FLAGS = 8;
  static final int DIRECTORY_METHOD = 10;
  static final int DIRECTORY_CRC = 16;
  static final int DIRECTORY_PACKED_BYTES = 20;
  static final int DIRECTORY_BYTES = 24;
  static final int DIRECTORY_NAME_BYTES = 28;
  static final int DIRECTORY_EXTRA_BYTES = 30;
  static final int DIRECTORY_COMMENT_BYTES = 32;
  static final int DIRECTORY_HEADER_OFFSET = 42;

  static final int END_SIGNATURE = 0x06054b50;
  static final int END_RECORD = 22;
  static final int END_COUNT = 10;
  static final int END_DIRECTORY_BYTES = 12;
  static final int END_DIRECTORY_OFFSET = 16;
  static final int END_COMMENT_BYTES = 20;

  static final int ZIP64_END_SIGNATURE = 0x06064b50;
  static final int ZIP64_END_RECORD = 56;
  static final int ZIP64_END_COUNT = 32;
  static final int ZIP64_END_DIRECTORY_BYTES = 40;
  static final int ZIP64_END_DIRECTORY_OFFSET = 48;

  /** What {@link #ZIP64_END_RECORD} says of itself: without signature and this number. */
  static final int ZIP64_END_REMAINING = ZIP64_END_RECORD - 12;

  /** Unix, version 3.0 of the format; {@code mz_zip_writer_finalize_archive} writes it. */
  static final int MADE_BY = 0x031e;

  /** 4.5 of the format, which knows zip64. */
  static final int NEEDED = 45;

  static final int ZIP64_LOCATOR_SIGNATURE = 0x07064b50;
  static final int ZIP64_LOCATOR = 20;
  static final int ZIP64_LOCATOR_OFFSET = 8;

  static final int STORED = 0;
  static final int FLAG_DESCRIPTOR = 0x0008;
  static final int FLAG_UTF8 = 0x0800;

  /** Encrypted, strongly encrypted, or with a masked directory. */
  static final int FLAGS_ENCRYPTED = 0x2041;

  /** An extra field is its id, the number of bytes that follow, and these. */
  static final int EXTRA_HEADER = 4;

  static final int ZIP64_EXTRA = 1;

  /** PyTorch's own extra field, which aligns the payload ({@code getPadding}). */
  static final int PADDING_EXTRA = 'F' | 'B' << 8;

  static final int PADDING = 'Z';
}
