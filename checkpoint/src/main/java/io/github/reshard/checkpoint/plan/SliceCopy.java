package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.state.Address;
import java.io.Serializable;

/**
 * Bytes that move in one piece: they cross no boundary of a source storage, target storage or part.
 * They are one run in the source and in the target, or rows of a box.
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
 * @param rows how the elements lie, or null if they are one run on each side; the addresses and
 *     {@code tensor} are those of the first element
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
    Conversion conversion,
    Rows rows)
    implements Serializable {

  public SliceCopy {
    if (bytes < 0 || (source == null && target == null)) {
      throw new IllegalArgumentException(
          "a slice of %d bytes from %s to %s".formatted(bytes, source, target));
    }
  }

  /** Bytes that are one run in the source and in the target. */
  public SliceCopy(
      Address source,
      Address target,
      long bytes,
      boolean proves,
      long fill,
      int fillBytes,
      CastCheck cast,
      TensorRun tensor,
      Conversion conversion) {
    this(source, target, bytes, proves, fill, fillBytes, cast, tensor, conversion, null);
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
   * Elements of a parameter that are cast while they move.
   *
   * @param bytes how many are written
   */
  public static SliceCopy castOfTensor(
      Address source, Address target, long bytes, TensorRun tensor, Conversion conversion) {
    return new SliceCopy(source, target, bytes, true, 0, 1, null, tensor, conversion);
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

  /** Elements that are only compared: they are proven, and copied, by another slice. */
  public static SliceCopy compared(Address source, long bytes, CastCheck cast) {
    return new SliceCopy(source, null, bytes, false, 0, 1, cast, null, null);
  }

  /** The same slice where the files of the source have other numbers. */
  public SliceCopy readFrom(Address from, Address weights) {
    return new SliceCopy(
        from,
        target,
        bytes,
        proves,
        fill,
        fillBytes,
        cast == null
            ? null
            : new CastCheck(
                cast.parameter(),
                cast.start(),
                cast.master(),
                cast.module(),
                weights,
                cast.copies()),
        tensor,
        conversion,
        rows);
  }

  /** Padding: {@code bytes} bytes of repeated elements. */
  public static SliceCopy padding(Address target, long bytes, long fill, int fillBytes) {
    return new SliceCopy(null, target, bytes, false, fill, fillBytes, null, null, null);
  }

  /** The same bytes for one more place: what is said and proven of them is said of the first. */
  SliceCopy again() {
    return new SliceCopy(
        source, target, bytes, false, fill, fillBytes, null, null, conversion, rows);
  }

  /** The same from another place. */
  public SliceCopy from(Address other) {
    return new SliceCopy(
        other, target, bytes, proves, fill, fillBytes, cast, tensor, conversion, rows);
  }

  /** The same to another place. */
  public SliceCopy to(Address other) {
    return new SliceCopy(
        source, other, bytes, proves, fill, fillBytes, cast, tensor, conversion, rows);
  }

  /** The same elements, which lie in rows. */
  SliceCopy in(Rows lying) {
    return new SliceCopy(
        source, target, bytes, proves, fill, fillBytes, cast, tensor, conversion, lying);
  }

  /** How many bytes of the source lie from the first to the last that is read. */
  public long sourceSpan() {
    return rows == null ? sourceBytes() : (rows.source(last()) + 1) * sourceWidth();
  }

  /** How many bytes of the target lie from the first to the last that is written. */
  public long targetSpan() {
    return rows == null ? bytes : (rows.target(last()) + 1) * rows.width();
  }

  /** The bytes of an element in rows where it is read. */
  public int sourceWidth() {
    return conversion == null ? rows.width() : conversion.from().bytes();
  }

  private long last() {
    return bytes / rows.width() - 1;
  }

  /**
   * How many of its bytes, in whole elements, are written before byte {@code distance} behind its
   * first one.
   */
  public long bytesBefore(long distance) {
    if (rows == null) {
      return Math.min(distance, bytes);
    }
    long elements = rows.beforeTarget(-Math.floorDiv(-distance, (long) rows.width()));
    return Math.min(elements * rows.width(), bytes);
  }

  /** The part of this slice that begins {@code from} bytes in and is {@code length} bytes long. */
  public SliceCopy part(long from, long length) {
    if (rows != null) {
      return partOfRows(from / rows.width(), length);
    }
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

  private SliceCopy partOfRows(long from, long length) {
    int width = rows.width();
    long read = rows.source(from);
    long full = rows.tensor(from);
    return new SliceCopy(
        source.plus(read * sourceWidth()),
        target.plus(rows.target(from) * width),
        length,
        proves,
        fill,
        fillBytes,
        cast == null ? null : cast.plus(read, full),
        tensor == null ? null : tensor.plus(full * width),
        conversion,
        rows.behind(from));
  }
}
