package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.storage.ComposedStore.Composed;
import io.github.reshard.checkpoint.storage.ComposedStore.Segment;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
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
 * proves these.
 */
final class ComposedTorchFile {
  private static final int BUFFER_BYTES = 1 << 20;

  private ComposedTorchFile() {}

  /**
   * A range of a file.
   *
   * @param file which, or null for zeros
   * @param offset its first byte
   * @param bytes how many
   * @param crc32 of these
   */
  record Piece(FileStat file, long offset, long bytes, int crc32) {
    static Piece zeros(long bytes) {
      return new Piece(null, 0, bytes, Crc32Combine.ofZeros(bytes));
    }
  }

  /**
   * A storage.
   *
   * @param key its key in the pickle
   * @param pieces what it holds, in order
   */
  record Storage(String key, List<Piece> pieces) {
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
  static Composed of(String path, PyObject root, int protocol, List<Storage> storages) {
    String name = path.substring(path.lastIndexOf('/') + 1);
    byte[] pickle = PickleWriter.write(root, protocol);
    TorchFileLayout layout =
        TorchFileLayout.planNew(
            name, pickle, storages.stream().map(s -> new StorageSize(s.key(), s.bytes())).toList());
    Map<String, Integer> crcs = new HashMap<>();
    List<Segment> segments = new ArrayList<>();
    StringBuilder version = new StringBuilder("composed");
    for (Storage storage : storages) {
      int crc = 0;
      long at = layout.payloadOffset(storage.key());
      for (Piece piece : storage.pieces()) {
        crc = Crc32Combine.combine(crc, piece.crc32(), piece.bytes());
        if (piece.bytes() > 0) {
          segments.add(new Segment(at, piece.bytes(), piece.file(), piece.offset(), null));
          at += piece.bytes();
        }
        if (piece.file() != null) {
          version.append(' ').append(piece.file().version());
        }
      }
      crcs.put(storage.key(), crc);
    }
    for (ByteSegment known : layout.segments(crcs)) {
      segments.add(new Segment(known.offset(), known.bytes().length, null, 0, known.bytes()));
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
   * A part of a storage, of which no file recorded a CRC. All of it is read, to be proven here.
   *
   * @param whole the storage
   * @param from the first byte in it
   * @throws RefusedException if its bytes have not the CRC that was recorded
   */
  static Piece part(SourceStore store, Piece whole, long from, long bytes) throws IOException {
    int found = read(store, whole.file(), whole.offset(), whole.bytes()).crc32();
    if (found != whole.crc32()) {
      throw new RefusedException(
          whole.file().path(),
          "the CRC-32 of the %d bytes from %d on is %08x, the file recorded %08x. It is damaged."
              .formatted(whole.bytes(), whole.offset(), found, whole.crc32()));
    }
    return from == 0 && bytes == whole.bytes()
        ? whole
        : read(store, whole.file(), whole.offset() + from, bytes);
  }

  /** A range whose CRC no file recorded; it is read. */
  static Piece read(SourceStore store, FileStat file, long offset, long bytes) throws IOException {
    CRC32 crc = new CRC32();
    ByteBuffer buffer = ByteBuffer.allocate((int) Math.min(BUFFER_BYTES, Math.max(1, bytes)));
    try (RangedFile open = store.open(file)) {
      for (long at = 0; at < bytes; at += buffer.limit()) {
        buffer.clear().limit((int) Math.min(buffer.capacity(), bytes - at));
        open.readFully(offset + at, buffer);
        crc.update(buffer.flip());
      }
    }
    return new Piece(file, offset, bytes, (int) crc.getValue());
  }
}
