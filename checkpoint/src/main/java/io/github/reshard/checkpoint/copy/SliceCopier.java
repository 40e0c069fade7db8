package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.CastCheck;
import io.github.reshard.checkpoint.plan.Conversion;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;
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
  static final int BUFFER_BYTES = 1 << 20;

  private final ByteBuffer data =
      ByteBuffer.allocateDirect(BUFFER_BYTES).order(ByteOrder.LITTLE_ENDIAN);
  private final ByteBuffer weights =
      ByteBuffer.allocateDirect(BUFFER_BYTES).order(ByteOrder.LITTLE_ENDIAN);

  private final Disagreements disagreements;

  /** Made when the first rows come, because most jobs have none. */
  private RowCopier rows;

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

  /** Hears of each slice that was copied. */
  public interface Copied {
    /** Called once for each slice. */
    void slice(SliceCopy slice, Checksums checksums);
  }

  /**
   * What a slice's bytes give to the CRC-32 of what they are of.
   *
   * @param source the entry that they were read from, or null if that is not to be proven
   * @param target the entry that they were written to, or null if they were not
   * @param tensor the full tensor, counted from its first byte, or null if they are no parameter's
   */
  public record Checksums(SliceCrc source, SliceCrc target, SliceCrc tensor) {
    static Checksums ofRun(SliceCopy slice, int readCrc32, int crc32) {
      long bytes = slice.bytes();
      return new Checksums(
          slice.proves()
              ? new SliceCrc(slice.source().offset(), slice.sourceBytes(), readCrc32)
              : null,
          slice.target() == null ? null : new SliceCrc(slice.target().offset(), bytes, crc32),
          slice.tensor() == null ? null : new SliceCrc(slice.tensor().offset(), bytes, crc32));
    }
  }

  /**
   * Copies one slice that is one run.
   *
   * @param sink where the bytes go; not used by a slice that is only read
   * @return the CRC-32 of its bytes, of those that are written if it casts them
   * @throws RefusedException if the source ends too early, or the slice's claim about the weights
   *     is false
   */
  public int copy(SliceCopy slice, Sources sources, PositionalFile sink) throws IOException {
    int[] result = new int[1];
    copyRuns(List.of(slice), sources, sink, (copied, read, crc32) -> result[0] = crc32);
    return result[0];
  }

  /**
   * Copies slices in this order; those that follow one another in the source and in the target
   * alike are read and written together, and so are rows that lie between one another.
   *
   * @param sink where the bytes go; not used by slices that are only read
   * @throws RefusedException if a source ends too early, or a slice's claim about the weights is
   *     false
   */
  public void copy(List<SliceCopy> slices, Sources sources, PositionalFile sink, Copied copied)
      throws IOException {
    for (Weave weave : Weave.of(slices)) {
      if (weave.isRuns()) {
        copyRuns(
            weave.slices(),
            sources,
            sink,
            (slice, read, crc32) -> copied.slice(slice, Checksums.ofRun(slice, read, crc32)));
      } else {
        if (rows == null) {
          rows = new RowCopier(data, weights, disagreements);
        }
        rows.copy(weave.slices(), sources, sink, copied);
      }
    }
  }

  /** Hears of each run that was copied. */
  private interface CopiedRun {
    /**
     * Called once for each slice, in order.
     *
     * @param readCrc32 of the bytes that were read, if the slice proves them
     * @param crc32 of the bytes that were written; the same unless the slice casts them
     */
    void slice(SliceCopy slice, int readCrc32, int crc32);
  }

  private void copyRuns(
      List<SliceCopy> slices, Sources sources, PositionalFile sink, CopiedRun copied)
      throws IOException {
    for (CopyRun run : CopyRun.of(slices)) {
      if (run.bytes() == 0) {
        run.slices().forEach(slice -> copied.slice(slice, 0, 0));
      } else {
        copy(run, sources, sink, copied);
      }
    }
  }

  private void copy(CopyRun run, Sources sources, PositionalFile sink, CopiedRun heard)
      throws IOException {
    RangedFile source = run.source() == null ? null : sources.open(run.source().file());
    if (source == null) {
      fillBuffer(run.slices().get(0));
    }
    Conversion conversion = run.slices().get(0).conversion();
    Claims claims = run.slices().get(0).cast() == null ? null : new Claims(run.slices());
    CRC32 crc = new CRC32();
    CRC32 readCrc = conversion == null ? crc : new CRC32();
    int slice = 0;
    long sliceEnd = run.slices().get(0).bytes();
    for (long done = 0; done < run.bytes(); ) {
      ByteBuffer copied = data;
      int length;
      if (conversion == null) {
        length = (int) Math.min(BUFFER_BYTES, run.bytes() - done);
        data.clear().limit(length);
        if (source != null) {
          read(source, run.source().offset() + done, data);
        }
      } else {
        length = cast(source, run, conversion, done);
        copied = weights;
      }
      for (long at = done; at < done + length; ) {
        long end = Math.min(sliceEnd, done + length);
        crc.update(copied.slice((int) (at - done), (int) (end - at)));
        if (conversion != null && run.slices().get(slice).proves()) {
          readCrc.update(
              data.slice(
                  (int) conversion.sourceBytes(at - done), (int) conversion.sourceBytes(end - at)));
        }
        at = end;
        while (slice < run.slices().size() && at == sliceEnd) {
          heard.slice(run.slices().get(slice++), (int) readCrc.getValue(), (int) crc.getValue());
          crc.reset();
          readCrc.reset();
          sliceEnd += slice < run.slices().size() ? run.slices().get(slice).bytes() : 0;
        }
      }
      if (claims != null) {
        claims.check(done, length, sources);
      }
      if (run.target() != null) {
        sink.write(run.target().offset() + done, copied.slice(0, length));
      }
      done += length;
    }
  }

  /** Casts the elements from byte {@code done} of the run on; how many bytes that gave. */
  private int cast(RangedFile source, CopyRun run, Conversion conversion, long done)
      throws IOException {
    int widest = Math.max(conversion.from().bytes(), conversion.to().bytes());
    long most = BUFFER_BYTES / widest * (long) conversion.to().bytes();
    int length = (int) Math.min(most, run.bytes() - done);
    data.clear().limit(Math.toIntExact(conversion.sourceBytes(length)));
    read(source, run.source().offset() + conversion.sourceBytes(done), data);
    weights.clear().limit(length);
    WeightCast.cast(data.flip(), weights, conversion);
    return length;
  }

  static void read(RangedFile file, long position, ByteBuffer into) throws IOException {
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

  /** What a run's slices claim about the module's weights. */
  private final class Claims {
    private final List<SliceCopy> slices;
    private int slice;
    private long sliceStart;
    private int lastFound = -1;

    Claims(List<SliceCopy> slices) {
      this.slices = slices;
    }

    /** Checks the {@code length} bytes in the buffer, which are those from {@code from} on. */
    void check(long from, int length, Sources sources) throws IOException {
      long at = from;
      while (at < from + length) {
        seek(at);
        CastCheck cast = slices.get(slice).cast();
        long end = sliceStart + slices.get(slice).bytes();
        for (int s = slice + 1; s < slices.size() && end < from + length; s++) {
          if (!slices.get(s).cast().weights().equals(weightAt(cast, end - sliceStart))) {
            break;
          }
          end += slices.get(s).bytes();
        }
        end = Math.min(end, from + length);
        check(cast, at, (int) (at - from), (int) (end - at), sources);
        at = end;
      }
    }

    /** Makes the slice that holds byte {@code at} of the run the current one. */
    private void seek(long at) {
      while (at >= sliceStart + slices.get(slice).bytes()) {
        sliceStart += slices.get(slice++).bytes();
      }
    }

    private void check(CastCheck cast, long at, int position, int length, Sources sources)
        throws IOException {
      int width = cast.master().bytes();
      RangedFile module = sources.open(cast.weights().file());
      weights.clear().limit(length / width * cast.module().bytes());
      read(module, weightAt(cast, at - sliceStart).offset(), weights);
      weights.flip();
      ByteBuffer masters = data.slice(position, length).order(ByteOrder.LITTLE_ENDIAN);
      int checked = 0;
      while (checked < length) {
        masters.position(checked);
        weights.position(checked / width * cast.module().bytes());
        int mismatch = WeightCast.firstMismatch(masters, cast.master(), weights, cast.module());
        if (mismatch < 0) {
          return;
        }
        checked += mismatch * width;
        seek(at + checked);
        report(at + checked, module);
        // One report a slice: go on with the next.
        checked = (int) Math.min(length, sliceStart + slices.get(slice).bytes() - at);
      }
    }

    private void report(long at, RangedFile module) {
      SliceCopy found = slices.get(slice);
      if (slice == lastFound) {
        return;
      }
      lastFound = slice;
      CastCheck cast = found.cast();
      long bytes = at - sliceStart;
      Disagreement.report(
          disagreements,
          found,
          cast.start() + bytes / cast.master().bytes(),
          module.path(),
          weightAt(cast, bytes).offset());
    }

    /** Where the weight lies of the master that begins {@code bytes} into the slice of a claim. */
    private Address weightAt(CastCheck cast, long bytes) {
      return cast.weights().plus(bytes / cast.master().bytes() * cast.module().bytes());
    }
  }
}
