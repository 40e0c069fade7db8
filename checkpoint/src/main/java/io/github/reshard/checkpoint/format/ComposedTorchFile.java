package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.storage.ComposedStore.Composed;
import io.github.reshard.checkpoint.storage.ComposedStore.Rows;
import io.github.reshard.checkpoint.storage.ComposedStore.Segment;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.ContainerStyle;
import io.github.reshard.checkpoint.torch.Crc32Combine;
import io.github.reshard.checkpoint.torch.StorageSize;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.CRC32;

/**
 * A torch file that nobody wrote: a pickle of our own, and storages that are put together of ranges
 * of other files. Its CRCs are those that the other files recorded, combined, so that reading it
 * proves these. If one of the others recorded none, it has none either, as a file has that was
 * saved without: nothing of it is proven, and the summary says so.
 */
public final class ComposedTorchFile {
  private static final int BUFFER_BYTES = 1 << 20;

  private ComposedTorchFile() {}

  /**
   * A range of a file, or bytes that are known.
   *
   * @param file which file, or null
   * @param offset its first byte
   * @param bytes how many
   * @param crc32 of these, if it is recorded
   * @param recorded whether something recorded their CRC
   * @param literal the bytes themselves, or null; zeros if there is no file either
   * @param rows how they lie in the file, or null if they follow one another
   */
  @SuppressWarnings("ArrayRecordComponent") // Never compared.
  public record Piece(
      FileStat file,
      long offset,
      long bytes,
      int crc32,
      boolean recorded,
      byte[] literal,
      Rows rows) {
    private Piece(
        FileStat file, long offset, long bytes, int crc32, boolean recorded, byte[] literal) {
      this(file, offset, bytes, crc32, recorded, literal, null);
    }

    /** Bytes whose CRC is recorded. */
    public static Piece of(FileStat file, long offset, long bytes, int crc32) {
      return new Piece(file, offset, bytes, crc32, true, null);
    }

    /** Bytes of which nothing recorded a CRC. */
    public static Piece unproven(FileStat file, long offset, long bytes) {
      return new Piece(file, offset, bytes, 0, false, null);
    }

    /** Zeros, such as padding. */
    public static Piece zeros(long bytes) {
      return new Piece(null, 0, bytes, Crc32Combine.ofZeros(bytes), true, null);
    }

    /** Bytes that are known. */
    public static Piece of(byte[] literal) {
      CRC32 crc = new CRC32();
      crc.update(literal);
      return new Piece(null, 0, literal.length, (int) crc.getValue(), true, literal);
    }
  }

  /**
   * A storage.
   *
   * @param key its key in the pickle
   * @param pieces what it holds, in order
   */
  public record Storage(String key, List<Piece> pieces) {
    long bytes() {
      return pieces.stream().mapToLong(Piece::bytes).sum();
    }
  }

  /**
   * Puts one together.
   *
   * @param path where it would lie
   * @param root what it says
   * @param storages in the order in which the pickle first mentions them
   */
  public static Composed of(String path, PyObject root, int protocol, List<Storage> storages) {
    String name = path.substring(path.lastIndexOf('/') + 1);
    byte[] pickle = PickleWriter.write(root, protocol);
    boolean recorded =
        storages.stream().flatMap(storage -> storage.pieces().stream()).allMatch(Piece::recorded);
    TorchFileLayout layout =
        TorchFileLayout.planNew(
            ContainerStyle.PLAIN.withCrcs(recorded),
            name,
            pickle,
            storages.stream().map(s -> new StorageSize(s.key(), s.bytes())).toList());
    Map<String, Integer> crcs = new HashMap<>();
    List<Segment> segments = new ArrayList<>();
    StringBuilder version = new StringBuilder("composed");
    for (Storage storage : storages) {
      int crc = 0;
      long at = layout.payloadOffset(storage.key());
      for (Piece piece : storage.pieces()) {
        crc = Crc32Combine.combine(crc, piece.crc32(), piece.bytes());
        if (piece.bytes() > 0) {
          segments.add(
              new Segment(
                  at, piece.bytes(), piece.file(), piece.offset(), piece.literal(), piece.rows()));
          at += piece.bytes();
        }
        if (piece.file() != null) {
          version.append(' ').append(piece.file().version());
        } else {
          version.append(' ').append(piece.crc32());
        }
      }
      crcs.put(storage.key(), crc);
    }
    for (ByteSegment known : layout.segments(crcs)) {
      segments.add(new Segment(known.offset(), known.bytes().length, null, 0, known.bytes(), null));
    }
    segments.sort(Comparator.comparingLong(Segment::start));
    CRC32 all = new CRC32();
    all.update(version.toString().getBytes(StandardCharsets.UTF_8));
    return new Composed(
        new FileStat(
            path, name, layout.totalBytes(), "composed-%08x".formatted(all.getValue()), false),
        segments);
  }

  /**
   * A part of a storage, of which no file recorded a CRC. If one recorded that of the storage, all
   * of it is read, to be proven here.
   *
   * @param whole the storage
   * @param from the first byte in it
   * @throws RefusedException if its bytes have not the CRC that was recorded
   */
  public static Piece part(SourceStore store, Piece whole, long from, long bytes)
      throws IOException {
    boolean all = from == 0 && bytes == whole.bytes();
    if (!whole.recorded()) {
      return all ? whole : Piece.unproven(whole.file(), whole.offset() + from, bytes);
    }
    int found = crc(store, whole.file(), whole.offset(), whole.bytes());
    if (found != whole.crc32()) {
      throw new RefusedException(
          whole.file().path(),
          "the CRC-32 of the %d bytes from %d on is %08x, the file recorded %08x. It is damaged."
              .formatted(whole.bytes(), whole.offset(), found, whole.crc32()));
    }
    long offset = whole.offset() + from;
    return all
        ? whole
        : Piece.of(whole.file(), offset, bytes, crc(store, whole.file(), offset, bytes));
  }

  /** The CRC of a range, which is read. */
  public static int crc(SourceStore store, FileStat file, long offset, long bytes)
      throws IOException {
    CRC32 crc = new CRC32();
    ByteBuffer buffer = ByteBuffer.allocate((int) Math.min(BUFFER_BYTES, Math.max(1, bytes)));
    try (RangedFile open = store.open(file)) {
      for (long at = 0; at < bytes; at += buffer.limit()) {
        buffer.clear().limit((int) Math.min(buffer.capacity(), bytes - at));
        open.readFully(offset + at, buffer);
        crc.update(buffer.flip());
      }
    }
    return (int) crc.getValue();
  }
}
