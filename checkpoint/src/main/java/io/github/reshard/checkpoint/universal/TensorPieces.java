package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.ComposedTorchFile.Piece;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.storage.ComposedStore.Rows;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import java.util.zip.CRC32;

/**
 * A whole tensor as tensor-parallel ranks have it. Nothing recorded CRCs of their parts, so that
 * the tensor is read once: to be proven as a whole, and for those of the parts.
 *
 * @param name of the parameter, for messages
 * @param whole where its elements are
 * @param shape of it
 * @param locals what each rank has
 * @param width the bytes of an element
 */
record TensorPieces(
    String name, Piece whole, List<Long> shape, List<LocalTensor> locals, int width) {
  private static final int BUFFER_BYTES = 1 << 20;

  /**
   * Bytes that a rank has, which repeat in each row of the tensor.
   *
   * @param begin the first one in a row
   */
  private record Part(int rank, long begin, long bytes, CRC32 crc) {}

  /**
   * What each rank has, in its order.
   *
   * @throws RefusedException if the tensor has not the CRC that was recorded, or ranks have it in
   *     another way than along one dimension
   */
  List<List<Piece>> ofRanks(SourceStore store) throws IOException {
    int cut = dimension();
    if (cut < 0) {
      return Collections.nCopies(locals.size(), List.of(whole));
    }
    long inner = Box.elements(shape.subList(cut + 1, shape.size())) * width;
    long row = shape.get(cut) * inner;
    long rows = Box.elements(shape.subList(0, cut));
    List<Part> parts = new ArrayList<>();
    for (int rank = 0; rank < locals.size(); rank++) {
      for (LocalTensor.Block block : locals.get(rank).blocks()) {
        parts.add(
            new Part(
                rank,
                block.full().offsets().get(cut) * inner,
                block.full().sizes().get(cut) * inner,
                new CRC32()));
      }
    }
    if (rows > 1 && parts.size() > locals.size()) {
      throw refused("several matrices of it are cut, and not by rows");
    }
    prove(store, parts, row, rows);
    List<List<Piece>> pieces = new ArrayList<>();
    for (int rank = 0; rank < locals.size(); rank++) {
      int own = rank;
      List<Piece> ofRank = new ArrayList<>();
      for (Part part : parts.stream().filter(part -> part.rank() == own).toList()) {
        ofRank.add(
            new Piece(
                whole.file(),
                whole.offset() + part.begin(),
                part.bytes() * rows,
                (int) part.crc().getValue(),
                whole.recorded(),
                null,
                rows == 1 ? null : new Rows(part.bytes(), row)));
      }
      long bytes = ofRank.stream().mapToLong(Piece::bytes).sum();
      long padding = locals.get(rank).elements() * width - bytes;
      if (padding > 0) {
        ofRank.add(Piece.zeros(padding)); // rows behind the end of a vocabulary
      }
      pieces.add(ofRank);
    }
    return pieces;
  }

  private RefusedException refused(String problem) {
    return new RefusedException(
        whole.file().path(),
        "%s of %s is shared among tensor-parallel ranks so that %s, which is not read from a Universal Checkpoint. Convert the native checkpoint instead."
            .formatted(shape, name, problem));
  }

  /** The dimension along which ranks have parts; -1 if each has all of it. */
  private int dimension() {
    int cut = -1;
    for (LocalTensor local : locals) {
      for (LocalTensor.Block block : local.blocks()) {
        for (int d = 0; d < shape.size(); d++) {
          if (!block.full().sizes().get(d).equals(shape.get(d))) {
            if (cut >= 0 && cut != d) {
              throw refused("it is cut along more than one dimension");
            }
            cut = d;
          }
        }
      }
    }
    boolean isWhole = cut < 0 && locals.stream().allMatch(LocalTensor.whole(shape)::equals);
    return isWhole ? -1 : Math.max(0, cut);
  }

  /** Reads all of it: a row has the parts of all ranks, one behind the other. */
  private void prove(SourceStore store, List<Part> parts, long row, long rows) throws IOException {
    List<Part> inOrder = new ArrayList<>(parts);
    inOrder.removeIf(part -> part.bytes() == 0);
    inOrder.sort(Comparator.comparingLong(Part::begin));
    long at = 0;
    for (Part part : inOrder) {
      if (part.begin() != at) {
        throw refused("ranks share a part of it");
      }
      at += part.bytes();
    }
    if (at != row) {
      throw refused("a part of it is nobody's");
    }
    if (whole.bytes() == 0) {
      return;
    }
    CRC32 all = new CRC32();
    ByteBuffer buffer = ByteBuffer.allocate((int) Math.min(BUFFER_BYTES, whole.bytes()));
    buffer.limit(0);
    long read = 0;
    try (RangedFile open = store.open(whole.file())) {
      for (long r = 0; r < rows; r++) {
        for (Part part : inOrder) {
          for (long left = part.bytes(); left > 0; ) {
            if (!buffer.hasRemaining()) {
              buffer.clear().limit((int) Math.min(buffer.capacity(), whole.bytes() - read));
              open.readFully(whole.offset() + read, buffer);
              buffer.flip();
              all.update(buffer.duplicate());
              read += buffer.limit();
            }
            int length = (int) Math.min(left, buffer.remaining());
            part.crc().update(buffer.slice(buffer.position(), length));
            buffer.position(buffer.position() + length);
            left -= length;
          }
        }
      }
    }
    if (whole.recorded() && (int) all.getValue() != whole.crc32()) {
      throw new RefusedException(
          whole.file().path(),
          "the CRC-32 of the %d bytes from %d on is %08x, the file recorded %08x. It is damaged."
              .formatted(whole.bytes(), whole.offset(), (int) all.getValue(), whole.crc32()));
    }
  }
}
