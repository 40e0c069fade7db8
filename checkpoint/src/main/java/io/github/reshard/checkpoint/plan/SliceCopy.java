package io.github.reshard.checkpoint.plan;

import java.io.Serializable;

/**
 * A run of bytes that moves in one piece: it crosses no boundary of a source storage, target
 * storage or part.
 *
 * @param source where it is read from, or null for padding that has no source
 * @param target where it is written to, or null if it is only read to be proven
 * @param bytes its length in bytes; where it is cast, those that are written
 * @param proves whether its CRC counts towards the proof of the source entry; every source byte is
 *     counted once
 * @param fill for padding, the bits of one element, little endian, in the low {@code fillBytes}
 *     bytes
 * @param fillBytes for padding, the bytes of one element
 * @param cast what is claimed of the bytes beside their identity, or null
 * @param tensor which bytes of which full tensor they are, or null if they are no parameter's
 * @param conversion how elements are cast on the way, or null if bytes stay as they are
 */
public record SliceCopy(
    Address source,
    Address target,
    long bytes,
    boolean proves,
    long fill,
    int fillBytes,
    CastCheck cast,
    TensorRun tensor,
    Conversion conversion)
    implements Serializable {

  public SliceCopy {
    if (bytes < 0 || (source == null && target == null)) {
      throw new IllegalArgumentException(
          "a slice of %d bytes from %s to %s".formatted(bytes, source, target));
    }
  }

  /** Bytes that move. */
  public static SliceCopy of(Address source, Address target, long bytes, boolean proves) {
    return new SliceCopy(source, target, bytes, proves, 0, 1, null, null, null);
  }

  /**
   * Bytes of a parameter that move.
   *
   * @param cast what is claimed of them, or null
   */
  public static SliceCopy ofTensor(
      Address source, Address target, long bytes, CastCheck cast, TensorRun tensor) {
    return new SliceCopy(source, target, bytes, true, 0, 1, cast, tensor, null);
  }

  /**
   * Elements of a parameter that are written a second time, as another of its tensors. The first
   * copy proves them.
   *
   * @param bytes how many are written
   * @param conversion how they are cast, or null
   */
  public static SliceCopy derived(
      Address source, Address target, long bytes, TensorRun tensor, Conversion conversion) {
    return new SliceCopy(source, target, bytes, false, 0, 1, null, tensor, conversion);
  }

  /** How many bytes are read; equal to {@link #bytes()} unless they are cast. */
  public long sourceBytes() {
    return conversion == null ? bytes : conversion.sourceBytes(bytes);
  }

  /** Bytes that are only read, so that the storage's CRC can be checked. */
  public static SliceCopy readOnly(Address source, long bytes) {
    return new SliceCopy(source, null, bytes, true, 0, 1, null, null, null);
  }

  /**
   * Another rank's copy of elements of a state.
   *
   * @param target where it goes, or null if it is only compared
   * @param cast the claim that it is equal to the first rank's copy
   */
  static SliceCopy copyOf(Address source, Address target, long bytes, CastCheck cast) {
    return new SliceCopy(source, target, bytes, true, 0, 1, cast, null, null);
  }

  /** Padding: {@code bytes} bytes of repeated elements. */
  public static SliceCopy padding(Address target, long bytes, long fill, int fillBytes) {
    return new SliceCopy(null, target, bytes, false, fill, fillBytes, null, null, null);
  }

  /** The part of this slice that begins {@code from} bytes in and is {@code length} bytes long. */
  SliceCopy part(long from, long length) {
    CastCheck claim = cast;
    if (cast != null) {
      claim = cast.plus(from / cast.master().bytes());
    }
    return new SliceCopy(
        source == null
            ? null
            : source.plus(conversion == null ? from : conversion.sourceBytes(from)),
        target == null ? null : target.plus(from),
        length,
        proves,
        fill,
        fillBytes,
        claim,
        tensor == null ? null : tensor.plus(from),
        conversion);
  }
}
