package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.CastCheck;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.zip.CRC32;

/**
 * Copies slices through one buffer, so that a slice of any length takes the same memory. Not safe
 * for use by several threads.
 */
public final class SliceCopier {
  /**
   * Large enough that a call's cost vanishes, small enough to stay in the cache between CRC and
   * write.
   */
  private static final int BUFFER_BYTES = 1 << 20;

  private final ByteBuffer data =
      ByteBuffer.allocateDirect(BUFFER_BYTES).order(ByteOrder.LITTLE_ENDIAN);
  private final ByteBuffer weights =
      ByteBuffer.allocateDirect(BUFFER_BYTES).order(ByteOrder.LITTLE_ENDIAN);

  private final Disagreements disagreements;

  /** A copier that refuses master weights that do not give the module's weights. */
  public SliceCopier() {
    this(
        (slice, element, reason) -> {
          throw reason;
        });
  }

  /**
   * @param disagreements hears of master weights that do not give the module's weights
   */
  public SliceCopier(Disagreements disagreements) {
    this.disagreements = disagreements;
  }

  /** What is done about master weights that do not give the module's weights. */
  public interface Disagreements {
    /**
     * Called at most once a slice.
     *
     * @param slice the slice whose claim is false
     * @param element the first element of the parameter that disagrees
     * @param reason what to throw if that is not acceptable
     */
    void found(SliceCopy slice, long element, RefusedException reason);
  }

  /** Where the files of the source are opened. */
  public interface Sources {
    RangedFile open(int file) throws IOException;
  }

  /**
   * Copies one slice.
   *
   * @param sink where the bytes go; not used by a slice that is only read
   * @return the CRC-32 of its bytes
   * @throws RefusedException if the source ends too early, or the slice's claim about the weights
   *     is false
   */
  public int copy(SliceCopy slice, Sources sources, PositionalFile sink) throws IOException {
    CRC32 crc = new CRC32();
    RangedFile source = slice.source() == null ? null : sources.open(slice.source().file());
    if (source == null) {
      fillBuffer(slice);
    }
    boolean claimHolds = true;
    for (long done = 0; done < slice.bytes(); ) {
      int length = (int) Math.min(BUFFER_BYTES, slice.bytes() - done);
      data.clear().limit(length);
      if (source != null) {
        read(source, slice.source().offset() + done, data);
      }
      crc.update(data.slice(0, length));
      if (slice.cast() != null && claimHolds) {
        claimHolds = check(slice, done, length, sources);
      }
      if (slice.target() != null) {
        sink.write(slice.target().offset() + done, data.slice(0, length));
      }
      done += length;
    }
    return (int) crc.getValue();
  }

  private static void read(RangedFile file, long position, ByteBuffer into) throws IOException {
    try {
      file.readFully(position, into);
    } catch (EOFException e) {
      throw new RefusedException(
          file.path(), "the file became shorter while it was being read. " + e.getMessage(), e);
    }
  }

  private void fillBuffer(SliceCopy slice) {
    data.clear();
    for (int i = 0; i < Math.min(BUFFER_BYTES, slice.bytes()); i++) {
      data.put(i, (byte) (slice.fill() >>> (8 * (i % slice.fillBytes()))));
    }
  }

  private boolean check(SliceCopy slice, long done, int length, Sources sources)
      throws IOException {
    CastCheck cast = slice.cast();
    int elements = length / cast.master().bytes();
    long firstElement = done / cast.master().bytes();
    RangedFile module = sources.open(cast.weights().file());
    weights.clear().limit(elements * cast.module().bytes());
    read(module, cast.weights().offset() + firstElement * cast.module().bytes(), weights);
    int mismatch =
        WeightCast.firstMismatch(
            data.slice(0, length).order(ByteOrder.LITTLE_ENDIAN),
            cast.master(),
            weights.flip(),
            cast.module());
    if (mismatch < 0) {
      return true;
    }
    long element = cast.start() + firstElement + mismatch;
    disagreements.found(
        slice,
        element,
        new RefusedException(
            "parameter " + (slice.tensor() == null ? cast.parameter() : slice.tensor().parameter()),
            "element %d of the master weights, cast to %s, is not the module's weight in %s at byte %d. The files are of different steps, or the weights were changed by hand; if they were, on purpose, --trustMasters goes on."
                .formatted(
                    element,
                    cast.module(),
                    module.path(),
                    cast.weights().offset() + (firstElement + mismatch) * cast.module().bytes())));
    return false;
  }
}
