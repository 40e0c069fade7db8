package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ElementText;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.zip.CRC32;

/**
 * A tensor as text by which two are compared: the value of one element, else type, shape and the
 * CRC-32 of its elements row by row, wherever these lie in its storage.
 *
 * @param store where its file is read from
 * @param most the most bytes of a storage that are read for one tensor
 */
record TensorText(SourceStore store, long most) {
  /** How the text of a tensor ends whose elements were not read. */
  static final String NOT_READ = "too large to be read here";

  private static final int CHUNK_BYTES = 1 << 20;

  /** Beyond it the elements of a tensor with gaps would not fit into one array. */
  private static final long MOST_WITH_GAPS = 1L << 30;

  String of(TorchFile file, FileStat stat, String where, TensorNode tensor) throws IOException {
    tensor.requireInBounds(where);
    String kind = tensor.dtype().torchName() + Arrays.toString(tensor.shape());
    if (tensor.numel() == 0) {
      return kind;
    }
    long width = tensor.dtype().bytes();
    long from = tensor.storageOffset() * width;
    long span = (tensor.lastElement() + 1) * width - from;
    TorchFile.Entry entry = file.storage(tensor.storageKey()).orElse(null);
    if (entry == null || from + span > entry.bytes()) {
      throw new RefusedException(
          where, "its storage '%s' is missing or too short.".formatted(tensor.storageKey()));
    }
    boolean contiguous = tensor.isContiguous();
    if (contiguous && file.hasCrcs() && from == 0 && span == entry.bytes() && tensor.numel() != 1) {
      return kind + " crc32 %08x".formatted(entry.crc32());
    }
    // An expanded tensor has more elements than it spans.
    boolean tooLarge = Math.max(span, tensor.numel()) > MOST_WITH_GAPS;
    if (span > most || (!contiguous && tooLarge)) {
      return kind + ", " + NOT_READ;
    }
    try (RangedFile open = store.open(stat)) {
      long at = entry.payloadOffset() + from;
      if (tensor.numel() == 1) {
        return ElementText.of(tensor.dtype(), read(open, at, width), 0);
      }
      int crc = contiguous ? crc(open, at, span) : crc(read(open, at, span), tensor);
      return kind + " crc32 %08x".formatted(crc);
    }
  }

  private static ByteBuffer read(RangedFile file, long from, long bytes) throws IOException {
    ByteBuffer content = ByteBuffer.allocate(Math.toIntExact(bytes));
    file.readFully(from, content);
    return content;
  }

  private static int crc(RangedFile file, long from, long bytes) throws IOException {
    CRC32 crc = new CRC32();
    for (long done = 0; done < bytes; ) {
      long length = Math.min(CHUNK_BYTES, bytes - done);
      crc.update(read(file, from + done, length).array());
      done += length;
    }
    return (int) crc.getValue();
  }

  /** Row by row, whatever the strides. */
  private static int crc(ByteBuffer span, TensorNode tensor) {
    long[] shape = tensor.shape();
    long[] stride = tensor.stride();
    int width = tensor.dtype().bytes();
    long[] at = new long[shape.length];
    CRC32 crc = new CRC32();
    long elements = tensor.numel();
    long offset = 0;
    for (long e = 0; e < elements; e++) {
      crc.update(span.slice((int) offset, width));
      for (int d = shape.length - 1; d >= 0; d--) {
        offset += stride[d] * width;
        if (++at[d] < shape[d]) {
          break;
        }
        offset -= stride[d] * width * shape[d];
        at[d] = 0;
      }
    }
    return (int) crc.getValue();
  }
}
