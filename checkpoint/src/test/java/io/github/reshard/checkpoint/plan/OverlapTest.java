package io.github.reshard.checkpoint.plan;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.copy.SliceCopier;
import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.copy.WeightCast;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.DType;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;

/** Tensors of up to four dimensions, cut into boxes and runs in any way, against a naive copy. */
class OverlapTest {
  private static final ParamId ID = new ParamId("checkpoint", 0, "w");
  private static final int WEIGHTS = 3; // the file after those of Boxes

  private static byte[] random(long bytes, Random random) {
    byte[] content = new byte[Math.toIntExact(bytes)];
    random.nextBytes(content);
    return content;
  }

  private static void requireSums(Boxes boxes, int width, Map<Address, List<SliceCrc>> sums) {
    for (Boxes.Holder holder : boxes.holders) {
      for (int r = 0; r < holder.runs().size(); r++) {
        Address at = holder.at().get(r);
        long bytes = holder.runs().get(r).elements() * width;
        assertThat(
                SliceCrc.sum(
                    at.offset(),
                    bytes,
                    SliceCrc.merged(sums.get(new Address(at.file(), at.entry(), 0)))))
            .isEqualTo(
                new SliceCrc.Sum.Whole(Copies.crc(boxes.files[at.file()], at.offset(), bytes)));
      }
    }
  }

  @Property(tries = 1000)
  void whatIsCopiedIsWhatANaiveCopyGivesAndEveryByteIsInEverySum(
      @ForAll Random random,
      @ForAll @IntRange(min = 1, max = 8) int width,
      @ForAll @IntRange(min = 8, max = 200) int part) {
    List<Long> shape = Boxes.shape(random);
    byte[] tensor = random(Box.elements(shape) * width, random);
    Boxes source = Boxes.of(shape, width, false, random);
    source.fill(tensor);
    Boxes target = Boxes.of(shape, width, false, random);
    Boxes expected = new Boxes(target);
    expected.fill(tensor);

    Copies sums =
        Copies.copy(
            source.copiesTo(
                target,
                (from, shared, s, t) ->
                    SliceCopy.ofTensor(
                            s,
                            t,
                            shared.elements() * width,
                            null,
                            new TensorRun(ID, States.MASTER, shared.tensor() * width))
                        .in(shared.rows())),
            source.files,
            target.files,
            part,
            random);

    assertThat(target.files).isDeepEqualTo(expected.files);
    requireSums(source, width, sums.read);
    requireSums(target, width, sums.written);
    assertThat(SliceCrc.sum(0, tensor.length, sums.tensors.get("w " + States.MASTER)))
        .isEqualTo(new SliceCrc.Sum.Whole(Copies.crc(tensor, 0, tensor.length)));
  }

  @Property(tries = 300)
  void aPairOfRunsSharesOnePieceForEachPairOfTheirBoxes(@ForAll Random random) {
    List<Long> shape = Boxes.shape(random);
    Boxes source = Boxes.of(shape, 1, true, random);
    Boxes target = Boxes.of(shape, 1, true, random);
    long[] elements = {0};
    for (Boxes.Holder from : source.holders) {
      for (Boxes.Holder to : target.holders) {
        List<Overlap.Shared> shared =
            Overlap.of(shape, from.local(), from.runs(), to.local(), to.runs(), 1);
        shared.forEach(piece -> elements[0] += piece.elements());
        Map<List<Integer>, Integer> pieces = new HashMap<>();
        shared.forEach(s -> pieces.merge(List.of(s.from(), s.to()), 1, Integer::sum));
        int most = from.local().blocks().size() * to.local().blocks().size();
        assertThat(pieces.values()).allMatch(count -> count <= most);
      }
    }
    assertThat(elements[0]).isEqualTo(Box.elements(shape));
  }

  /** Master weights and the module's, which lie in the source as the masters' boxes do. */
  private static final class Weights {
    final Map<Boxes.Holder, Long> at = new HashMap<>();
    final byte[] bytes;

    Weights(Boxes masters) {
      long end = 5;
      for (Boxes.Holder holder : masters.holders) {
        at.put(holder, end);
        end += 2 * holder.local().elements() + 3;
      }
      bytes = new byte[Math.toIntExact(end)];
      masters.forEach(
          (holder, local, file, offset, full) ->
              Boxes.littleEndian(bytes)
                  .putShort(
                      (int) (at.get(holder) + 2 * local),
                      (short)
                          WeightCast.toBits(
                              Boxes.littleEndian(masters.files[file]).getInt(offset),
                              DType.BFLOAT16)));
    }

    byte[][] with(Boxes source) {
      byte[][] files = Arrays.copyOf(source.files, WEIGHTS + 1);
      files[WEIGHTS] = bytes;
      return files;
    }

    SliceCopy claim(Boxes.Holder from, Overlap.Shared shared, Address source, Address target) {
      CastCheck cast =
          new CastCheck(
              "w",
              shared.tensor(),
              DType.FLOAT32,
              DType.BFLOAT16,
              new Address(WEIGHTS, 0, at.get(from) + 2 * shared.source()));
      return SliceCopy.ofTensor(
              source,
              target,
              4 * shared.elements(),
              cast,
              new TensorRun(ID, States.MASTER, 4 * shared.tensor()))
          .in(shared.rows());
    }
  }

  @Property(tries = 300)
  void aWeightThatIsNotItsMasterCastIsFoundWhereverItLies(
      @ForAll Random random, @ForAll @IntRange(min = 8, max = 200) int part) {
    List<Long> shape = Boxes.shape(random);
    Boxes source = Boxes.of(shape, 4, true, random);
    byte[] masters = random(Box.elements(shape) * 4, random);
    for (int i = 3; i < masters.length; i += 4) {
      masters[i] &= (byte) 0xbf; // no NaN, which would be equal to any other
    }
    source.fill(masters);
    Weights weights = new Weights(source);
    Boxes target = Boxes.of(shape, 4, false, random);
    List<SliceCopy> copies = source.copiesTo(target, weights::claim);

    Copies.copy(copies, weights.with(source), target.files, part, random);

    long wrong = random.nextInt((int) Box.elements(shape));
    int[] damaged = {0};
    source.forEach(
        (holder, local, file, offset, full) -> {
          if (full == wrong) {
            damaged[0] = (int) (weights.at.get(holder) + 2 * local);
          }
        });
    weights.bytes[damaged[0]] ^= 1;
    assertThatThrownBy(() -> Copies.copy(copies, weights.with(source), target.files, part, random))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("parameter w")
        .hasMessageContaining("element " + wrong + " of")
        .hasMessageContaining("file3 at byte " + damaged[0]);
  }

  @Property(tries = 300)
  void rowsAreCastOnTheWay(@ForAll Random random, @ForAll @IntRange(min = 8, max = 200) int part) {
    List<Long> shape = Boxes.shape(random);
    byte[] masters = random(Box.elements(shape) * 4, random);
    Boxes source = Boxes.of(shape, 4, false, random);
    source.fill(masters);
    Boxes target = Boxes.of(shape, 2, false, random);
    Boxes expected = new Boxes(target);
    byte[] cast = new byte[masters.length / 2];
    for (int i = 0; i < cast.length / 2; i++) {
      int bits = Boxes.littleEndian(masters).getInt(4 * i);
      Boxes.littleEndian(cast).putShort(2 * i, (short) WeightCast.toBits(bits, DType.FLOAT16));
    }
    expected.fill(cast);

    Copies sums =
        Copies.copy(
            source.copiesTo(
                target,
                (from, shared, s, t) ->
                    new SliceCopy(
                        s,
                        t,
                        2 * shared.elements(),
                        true,
                        0,
                        1,
                        null,
                        new TensorRun(ID, States.MODULE, 2 * shared.tensor()),
                        new Conversion(DType.FLOAT32, DType.FLOAT16),
                        shared.rows())),
            source.files,
            target.files,
            part,
            random);

    assertThat(target.files).isDeepEqualTo(expected.files);
    requireSums(source, 4, sums.read);
    requireSums(target, 2, sums.written);
    assertThat(SliceCrc.sum(0, cast.length, sums.tensors.get("w " + States.MODULE)))
        .isEqualTo(new SliceCrc.Sum.Whole(Copies.crc(cast, 0, cast.length)));
  }

  @Test
  void columnsOfAMatrixAreOneSliceAndFewReadsAndWrites() throws IOException {
    int rows = 3000;
    int columns = 700;
    byte[] matrix = random((long) rows * columns * 2, new Random(5));
    int[] reads = {0};
    int[] writes = {0};
    RangedFile source =
        new RangedFile() {
          @Override
          public String path() {
            return "source";
          }

          @Override
          public long size() {
            return matrix.length;
          }

          @Override
          public void readFully(long position, ByteBuffer target) {
            reads[0]++;
            target.put(matrix, (int) position, target.remaining());
          }

          @Override
          public void close() {}
        };
    byte[] half = new byte[matrix.length / 2];
    PositionalFile sink =
        new PositionalFile() {
          @Override
          public void write(long position, ByteBuffer from) {
            writes[0]++;
            from.get(half, (int) position, from.remaining());
          }

          @Override
          public void close() {}
        };
    List<Long> shape = List.of((long) rows, (long) columns);
    Box right = new Box(List.of(0L, columns / 2L), List.of((long) rows, columns / 2L));
    List<Overlap.Shared> shared =
        Overlap.of(
            shape,
            LocalTensor.whole(shape),
            List.of(new Overlap.Run(0, (long) rows * columns)),
            new LocalTensor(right.sizes(), List.of(new LocalTensor.Block(right, List.of(0L, 0L)))),
            List.of(new Overlap.Run(0, (long) rows * columns / 2)),
            2);
    assertThat(shared).hasSize(1);
    SliceCopy slice =
        SliceCopy.of(
                new Address(0, 0, 2 * shared.get(0).source()),
                new Address(0, 0, 0),
                half.length,
                true)
            .in(shared.get(0).rows());

    new SliceCopier().copy(List.of(slice), f -> source, sink, (s, sums) -> {});

    byte[] expected = new byte[half.length];
    for (int r = 0; r < rows; r++) {
      System.arraycopy(matrix, r * columns * 2 + columns, expected, r * columns, columns);
    }
    assertThat(Arrays.equals(half, expected)).isTrue();
    assertThat(reads[0]).isLessThan(10);
    assertThat(writes[0]).isLessThan(5);
  }

  @Test
  void whatNoSliceIsForIsNotWritten() {
    Rows everyOther = new Rows(1, 1, List.of(new Rows.Step(4, 2, 2, 2)), 0);
    SliceCopy slice =
        SliceCopy.of(new Address(0, 0, 0), new Address(0, 0, 0), 4, true).in(everyOther);
    Copies.File source = new Copies.File("source", new byte[8]);
    Copies.File target = new Copies.File("target", new byte[8]);

    assertThatThrownBy(
            () -> new SliceCopier().copy(List.of(slice), f -> source, target, (s, sums) -> {}))
        .hasMessageContaining("no slice of target file 0 is for byte 1");
    assertThatThrownBy(
            () ->
                new SliceCopier()
                    .copy(
                        List.of(
                            slice,
                            SliceCopy.of(new Address(0, 0, 0), new Address(0, 0, 1), 3, true)),
                        f -> source,
                        target,
                        (s, sums) -> {}))
        .hasMessageContaining("two slices of target file 0 are for byte 2");
  }
}
