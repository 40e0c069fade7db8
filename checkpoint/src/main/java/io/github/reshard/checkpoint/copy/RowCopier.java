package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.plan.CastCheck;
import io.github.reshard.checkpoint.plan.Rows;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.BitSet;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Set;
import java.util.zip.CRC32;

/**
 * Copies rows. The target is made a window at a time: the rows of all slices that lie in it are
 * read, checked and put in their places, and the window is written in one go. So neither reading
 * nor writing takes a system call a row, and memory does not grow.
 *
 * <p>The checksum of a row is taken where it was read, before it is put in its place, and goes into
 * the sums of the source, the target and the full tensor alike. That every byte of a window was put
 * there once is counted.
 */
final class RowCopier {
  private final ByteBuffer data;
  private final ByteBuffer weights;
  private final SliceCopier.Disagreements disagreements;
  private final ByteBuffer window =
      ByteBuffer.allocateDirect(SliceCopier.BUFFER_BYTES).order(ByteOrder.LITTLE_ENDIAN);
  private final BitSet there = new BitSet(SliceCopier.BUFFER_BYTES);
  private final RowReader reader = new RowReader();
  private final RowTable table = new RowTable();
  private final Set<SliceCopy> disagreed = Collections.newSetFromMap(new IdentityHashMap<>());
  private final CRC32 crc = new CRC32();

  /**
   * @param data room for what is read, {@link SliceCopier#BUFFER_BYTES}
   * @param weights room for what it is compared with, or cast to, as large
   */
  RowCopier(ByteBuffer data, ByteBuffer weights, SliceCopier.Disagreements disagreements) {
    this.data = data;
    this.weights = weights;
    this.disagreements = disagreements;
  }

  /** A slice, and how far it is copied. */
  private static final class Member {
    final SliceCopy slice;
    final Rows rows;
    final CrcShare source = new CrcShare();
    final CrcShare target = new CrcShare();
    final CrcShare tensor = new CrcShare();
    long done;

    Member(SliceCopy slice) {
      this.slice = slice;
      this.rows = slice.rows() == null ? oneRow(slice) : slice.rows();
    }

    private static Rows oneRow(SliceCopy slice) {
      int width =
          slice.conversion() != null
              ? slice.conversion().to().bytes()
              : slice.cast() != null ? slice.cast().master().bytes() : 1;
      return new Rows(width, slice.bytes() / width, List.of(), 0);
    }

    int sourceWidth() {
      return slice.conversion() == null ? rows.width() : slice.conversion().from().bytes();
    }

    SliceCopier.Checksums checksums() {
      return new SliceCopier.Checksums(
          slice.proves() ? source.sum() : null,
          target.sum(),
          slice.tensor() == null ? null : tensor.sum());
    }
  }

  /** Copies all of a {@link Weave}. */
  void copy(
      List<SliceCopy> slices,
      SliceCopier.Sources sources,
      PositionalFile sink,
      SliceCopier.Copied copied)
      throws IOException {
    disagreed.clear();
    List<Member> members = slices.stream().map(Member::new).toList();
    long end = 0;
    for (SliceCopy slice : slices) {
      end = Math.max(end, slice.target().offset() + slice.targetSpan());
    }
    for (long from = slices.get(0).target().offset(); from < end; ) {
      long to = Math.min(end, windowEnd(from, members));
      there.clear();
      for (Member member : members) {
        long until = to - member.slice.target().offset();
        long upTo = until <= 0 ? 0 : member.slice.bytesBefore(until);
        while (member.done < upTo) {
          copySome(member, upTo - member.done, from, sources);
        }
      }
      requireFilled(from, to, slices);
      sink.write(from, window.slice(0, (int) (to - from)));
      from = to;
    }
    members.forEach(member -> copied.slice(member.slice, member.checksums()));
  }

  /** Where a window ends that begins at {@code from}: never within an element. */
  private static long windowEnd(long from, List<Member> members) {
    for (Member member : members) {
      if (member.slice.rows() != null) {
        long grid = member.slice.target().offset();
        int width = member.rows.width();
        return grid + Math.floorDiv(from + SliceCopier.BUFFER_BYTES - grid, (long) width) * width;
      }
    }
    throw new IllegalArgumentException("no rows");
  }

  private void requireFilled(long from, long to, List<SliceCopy> slices) {
    int missing = there.nextClearBit(0);
    if (missing < to - from) {
      throw new IllegalStateException(
          "no slice of target file %d is for byte %d; the plan is wrong"
              .formatted(slices.get(0).target().file(), from + missing));
    }
  }

  /** Copies the next elements of {@code member} into the window that begins at {@code from}. */
  private void copySome(Member member, long bytes, long from, SliceCopier.Sources sources)
      throws IOException {
    Rows rows = member.rows;
    int width = rows.width();
    int widest = Math.max(width, member.sourceWidth());
    long first = member.done / width;
    long elements = Math.min(bytes / width, SliceCopier.BUFFER_BYTES / widest);
    elements = Math.min(elements, RowTable.most(rows));
    table.fill(rows, first, elements);
    ByteBuffer read = read(member, elements, sources);
    place(member, read, from);
    member.done += elements * width;
  }

  /** The next elements end to end, checked and cast. */
  private ByteBuffer read(Member member, long elements, SliceCopier.Sources sources)
      throws IOException {
    SliceCopy slice = member.slice;
    if (slice.source() == null) {
      data.clear();
      for (int i = 0; i < elements; i++) {
        int at = (int) ((member.done + i) % slice.fillBytes());
        data.put((byte) (slice.fill() >>> (8 * at)));
      }
      return data.flip();
    }
    RangedFile file = sources.open(slice.source().file());
    reader.read(file, slice.source().offset(), member.sourceWidth(), table, data);
    if (slice.cast() != null) {
      check(slice, sources);
    }
    if (slice.conversion() == null) {
      return data;
    }
    weights.clear().limit((int) (elements * member.rows.width()));
    WeightCast.cast(data, weights, slice.conversion());
    return weights;
  }

  /** Holds what was read against what the slice claims of it. */
  private void check(SliceCopy slice, SliceCopier.Sources sources) throws IOException {
    CastCheck cast = slice.cast();
    if (disagreed.contains(slice)) {
      return;
    }
    RangedFile file = sources.open(cast.weights().file());
    int width = cast.module().bytes();
    reader.read(file, cast.weights().offset(), width, table, weights);
    int mismatch = WeightCast.firstMismatch(data, cast.master(), weights, cast.module());
    if (mismatch < 0) {
      return;
    }
    disagreed.add(slice);
    int row = 0;
    for (; mismatch >= table.elements(row); row++) {
      mismatch -= table.elements(row);
    }
    Disagreement.report(
        disagreements,
        slice,
        cast.start() + table.tensor(row) + mismatch,
        file.path(),
        cast.weights().offset() + (table.source(row) + mismatch) * width);
  }

  /** Adds up the checksums of the rows and puts them where they belong. */
  private void place(Member member, ByteBuffer read, long from) {
    SliceCopy slice = member.slice;
    int width = member.rows.width();
    int at = 0;
    for (int row = 0; row < table.count(); row++) {
      int length = table.elements(row) * width;
      int sum = crc(read, at, length);
      long target = slice.target().offset() + table.target(row) * width;
      member.target.add(target, length, sum);
      if (slice.proves()) {
        int sourceWidth = member.sourceWidth();
        int bytes = table.elements(row) * sourceWidth;
        member.source.add(
            slice.source().offset() + table.source(row) * sourceWidth,
            bytes,
            slice.conversion() == null ? sum : crc(data, at / width * sourceWidth, bytes));
      }
      if (slice.tensor() != null) {
        member.tensor.add(slice.tensor().offset() + table.tensor(row) * width, length, sum);
      }
      int begin = (int) (target - from);
      int taken = there.nextSetBit(begin);
      if (taken >= 0 && taken < begin + length) {
        throw new IllegalStateException(
            "two slices of target file %d are for byte %d; the plan is wrong"
                .formatted(slice.target().file(), from + taken));
      }
      there.set(begin, begin + length);
      window.put(begin, read, at, length);
      at += length;
    }
  }

  private int crc(ByteBuffer buffer, int at, int length) {
    crc.reset();
    crc.update(buffer.slice(at, length));
    return (int) crc.getValue();
  }
}
