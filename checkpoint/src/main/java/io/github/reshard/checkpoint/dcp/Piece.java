package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.zip.CRC32;

/** A container of a data file that is to be written. */
sealed interface Piece extends Serializable {
  /**
   * Its layout, the same at each call.
   *
   * @param archive what its archive is called
   */
  TorchFileLayout layout(String archive);

  /** Bytes that come from the source; 0 if the plan says all of it. */
  default long payloadBytes() {
    return 0;
  }

  /**
   * Every byte that does not come from the source, by offset in the container.
   *
   * @param archive what its archive is called
   * @param crc32 of the bytes that do
   */
  default List<ByteSegment> segments(String archive, int crc32) {
    return layout(archive).segments(Map.of(Container.storageKey(), crc32));
  }

  /**
   * A tensor whose elements come from the source.
   *
   * @param dtype the type of an element
   * @param shape elements per dimension
   */
  record OfSource(DType dtype, List<Long> shape) implements Piece {
    public OfSource {
      shape = List.copyOf(shape);
    }

    @Override
    public TorchFileLayout layout(String archive) {
      return Container.ofTensor(archive, dtype, shape);
    }

    @Override
    public long payloadBytes() {
      return DcpMetadata.Chunk.elements(shape) * dtype.bytes();
    }
  }

  /**
   * A tensor of one element that the plan says.
   *
   * @param dtype its type
   * @param element its bytes, little endian
   */
  @SuppressWarnings("ArrayRecordComponent") // Never compared.
  record Scalar(DType dtype, byte[] element) implements Piece {
    @Override
    public TorchFileLayout layout(String archive) {
      return Container.ofTensor(archive, dtype, List.of());
    }

    @Override
    public List<ByteSegment> segments(String archive, int none) {
      CRC32 crc = new CRC32();
      crc.update(element);
      List<ByteSegment> segments =
          new ArrayList<>(Piece.super.segments(archive, (int) crc.getValue()));
      segments.add(new ByteSegment(Container.payloadOffset(layout(archive)), element));
      segments.sort(Comparator.comparingLong(ByteSegment::offset));
      return segments;
    }
  }

  /**
   * An object without tensors.
   *
   * @param pickle its pickle
   */
  @SuppressWarnings("ArrayRecordComponent") // Never compared.
  record OfPickle(byte[] pickle) implements Piece {
    @Override
    public TorchFileLayout layout(String archive) {
      return Container.ofPickle(archive, pickle);
    }
  }
}
