package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.plan.Overlap.Run;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.LocalTensor;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;

/**
 * A tensor that is cut into boxes along all its dimensions, the boxes given to holders, the
 * elements of each holder cut into runs, and the runs scattered over files: what any layout may do,
 * element by element.
 */
final class Boxes {
  private static final int FILES = 3;

  /** One holder: what it holds of the full tensor, and where its runs lie. */
  record Holder(LocalTensor local, List<Run> runs, List<Address> at) {}

  final List<Long> shape;
  final List<Holder> holders;
  final byte[][] files;
  private final int width;

  private Boxes(List<Long> shape, List<Holder> holders, int width, byte[][] files) {
    this.shape = shape;
    this.holders = holders;
    this.width = width;
    this.files = files;
  }

  /** The same cut, with files of its own. */
  Boxes(Boxes like) {
    this(
        like.shape,
        like.holders,
        like.width,
        Arrays.stream(like.files).map(file -> new byte[file.length]).toArray(byte[][]::new));
  }

  static List<Long> shape(Random random) {
    List<Long> shape = new ArrayList<>();
    for (int dimensions = random.nextInt(5); dimensions > 0; dimensions--) {
      shape.add(1L + random.nextInt(6));
    }
    return shape;
  }

  /**
   * Cuts a tensor at random.
   *
   * @param padded whether a holder's tensor may be larger than its boxes
   */
  static Boxes of(List<Long> shape, int width, boolean padded, Random random) {
    List<LocalTensor> locals = locals(shape, padded, random);
    int[] ends = new int[FILES];
    int[] entries = new int[FILES];
    List<Holder> holders = new ArrayList<>();
    for (LocalTensor local : locals) {
      List<Run> runs = runs(local.elements(), random);
      List<Address> at = new ArrayList<>();
      for (Run run : runs) {
        int file = random.nextInt(FILES);
        int begin = ends[file] + random.nextInt(9);
        at.add(new Address(file, entries[file]++, begin));
        ends[file] = begin + Math.toIntExact(run.elements() * width);
      }
      holders.add(new Holder(local, runs, at));
    }
    byte[][] files = new byte[FILES][];
    for (int f = 0; f < FILES; f++) {
      files[f] = new byte[ends[f]];
    }
    return new Boxes(shape, holders, width, files);
  }

  /** A grid of boxes; those of one row of the grid are dealt out, and joined in any order. */
  private static List<LocalTensor> locals(List<Long> shape, boolean padded, Random random) {
    List<List<List<Long>>> cuts = new ArrayList<>(); // by dimension: offset and size of each piece
    for (long size : shape) {
      cuts.add(pieces(size, random));
    }
    int joined = shape.isEmpty() ? -1 : random.nextInt(shape.size());
    List<LocalTensor> locals = new ArrayList<>();
    locals(shape, cuts, joined, new ArrayList<>(), new ArrayList<>(), padded, random, locals);
    Collections.shuffle(locals, random);
    return locals;
  }

  private static List<List<Long>> pieces(long size, Random random) {
    List<List<Long>> pieces = new ArrayList<>();
    for (long at = 0; at < size; ) {
      long length = 1L + random.nextInt((int) (size - at));
      pieces.add(List.of(at, length));
      at += length;
    }
    return pieces;
  }

  private static void locals(
      List<Long> shape,
      List<List<List<Long>>> cuts,
      int joined,
      List<Long> offsets,
      List<Long> sizes,
      boolean padded,
      Random random,
      List<LocalTensor> out) {
    int d = offsets.size();
    if (d == shape.size()) {
      if (joined < 0) {
        out.add(local(joined, List.of(new Box(offsets, sizes)), padded, random));
        return;
      }
      List<Box> row = new ArrayList<>();
      for (List<Long> piece : cuts.get(joined)) {
        List<Long> o = new ArrayList<>(offsets);
        List<Long> s = new ArrayList<>(sizes);
        o.set(joined, piece.get(0));
        s.set(joined, piece.get(1));
        row.add(new Box(o, s));
      }
      Collections.shuffle(row, random);
      while (!row.isEmpty()) {
        List<Box> some = row.subList(0, 1 + random.nextInt(row.size()));
        out.add(local(joined, new ArrayList<>(some), padded, random));
        some.clear();
      }
      return;
    }
    for (List<Long> piece : d == joined ? List.of(List.of(0L, 0L)) : cuts.get(d)) {
      List<Long> o = new ArrayList<>(offsets);
      List<Long> s = new ArrayList<>(sizes);
      o.add(piece.get(0));
      s.add(piece.get(1));
      locals(shape, cuts, joined, o, s, padded, random, out);
    }
  }

  private static LocalTensor local(int joined, List<Box> boxes, boolean padded, Random random) {
    List<Long> shape = new ArrayList<>(boxes.get(0).sizes());
    List<LocalTensor.Block> blocks = new ArrayList<>();
    List<Long> at = new ArrayList<>(Collections.nCopies(shape.size(), 0L));
    for (Box box : boxes) {
      blocks.add(new LocalTensor.Block(box, at));
      if (joined >= 0) {
        at.set(joined, at.get(joined) + box.sizes().get(joined));
        shape.set(joined, at.get(joined));
      }
    }
    for (int d = 0; padded && d < shape.size(); d++) {
      shape.set(d, shape.get(d) + random.nextInt(3));
    }
    return new LocalTensor(shape, blocks);
  }

  private static List<Run> runs(long elements, Random random) {
    List<Run> runs = new ArrayList<>();
    for (long at = 0; at < elements; ) {
      long length = 1L + random.nextInt((int) (elements - at));
      runs.add(new Run(at, length));
      at += length;
    }
    return runs;
  }

  /** Hears of an element: where it is in its file, and its index in the full tensor or -1. */
  interface Element {
    void at(Holder holder, long local, int file, int offset, long full);
  }

  /** Every element of every holder, one at a time. */
  void forEach(Element out) {
    for (Holder holder : holders) {
      for (int r = 0; r < holder.runs().size(); r++) {
        Run run = holder.runs().get(r);
        Address at = holder.at().get(r);
        for (long e = run.start(); e < run.end(); e++) {
          int offset = (int) (at.offset() + (e - run.start()) * width);
          out.at(holder, e, at.file(), offset, full(holder.local(), e));
        }
      }
    }
  }

  private long full(LocalTensor local, long element) {
    for (LocalTensor.Block block : local.blocks()) {
      long rest = element;
      long full = 0;
      long around = 1;
      boolean within = true;
      for (int d = shape.size() - 1; d >= 0; d--) {
        long in = rest % local.shape().get(d) - block.at().get(d);
        rest /= local.shape().get(d);
        within &= in >= 0 && in < block.full().sizes().get(d);
        full += (block.full().offsets().get(d) + in) * around;
        around *= shape.get(d);
      }
      if (within) {
        return full;
      }
    }
    return -1;
  }

  /** Puts the elements of the full tensor where they belong. */
  void fill(byte[] tensor) {
    forEach(
        (holder, local, file, offset, full) -> {
          if (full >= 0) {
            System.arraycopy(tensor, (int) (full * width), files[file], offset, width);
          }
        });
  }

  /** Makes of what two runs share what has to move. */
  interface Move {
    SliceCopy of(Holder from, Overlap.Shared shared, Address source, Address target);
  }

  /** Everything that moves from here to {@code target}. */
  List<SliceCopy> copiesTo(Boxes target, Move move) {
    List<SliceCopy> copies = new ArrayList<>();
    for (Holder from : holders) {
      for (Holder to : target.holders) {
        for (Overlap.Shared shared :
            Overlap.of(shape, from.local(), from.runs(), to.local(), to.runs(), target.width)) {
          copies.add(
              move.of(
                  from,
                  shared,
                  address(from, shared.from(), shared.source(), width),
                  address(to, shared.to(), shared.target(), target.width)));
        }
      }
    }
    return copies;
  }

  private static Address address(Holder holder, int run, long element, int width) {
    return holder.at().get(run).plus((element - holder.runs().get(run).start()) * width);
  }

  static ByteBuffer littleEndian(byte[] bytes) {
    return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
  }
}
