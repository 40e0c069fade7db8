package io.github.reshard.checkpoint.copy;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.CastCheck;
import io.github.reshard.checkpoint.plan.Conversion;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.DType;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.zip.CRC32;
import org.junit.jupiter.api.Test;

class SliceCopierTest {
  private static final int MEBIBYTE = 1 << 20;

  private record Memory(String path, ByteBuffer bytes) implements RangedFile, PositionalFile {
    static Memory of(String path, int size) {
      return new Memory(path, ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN));
    }

    @Override
    public long size() {
      return bytes.capacity();
    }

    @Override
    public void readFully(long position, ByteBuffer target) throws IOException {
      if (position + target.remaining() > size()) {
        throw new EOFException(path + " ends at byte " + size());
      }
      target.put(bytes.slice((int) position, target.remaining()));
    }

    @Override
    public void write(long position, ByteBuffer source) {
      int length = source.remaining();
      bytes.slice((int) position, length).put(source);
    }

    @Override
    public void close() {}
  }

  private static int crc(byte[] bytes) {
    CRC32 crc = new CRC32();
    crc.update(bytes);
    return (int) crc.getValue();
  }

  @Test
  void aSliceLargerThanTheBufferArrivesWhole() throws IOException {
    Memory source = Memory.of("source", 3 * MEBIBYTE);
    new Random(1).nextBytes(source.bytes().array());
    Memory target = Memory.of("target", 3 * MEBIBYTE);
    int bytes = 2 * MEBIBYTE + 12345;

    int crc =
        new SliceCopier()
            .copy(
                SliceCopy.of(new Address(0, 0, 77), new Address(0, 0, 5), bytes, true),
                file -> source,
                target);

    byte[] expected = Arrays.copyOfRange(source.bytes().array(), 77, 77 + bytes);
    assertThat(Arrays.copyOfRange(target.bytes().array(), 5, 5 + bytes)).isEqualTo(expected);
    assertThat(crc).isEqualTo(crc(expected));
    assertThat(target.bytes().get(4)).isZero();
    assertThat(target.bytes().get(5 + bytes)).isZero();
  }

  @Test
  void paddingRepeatsItsElement() throws IOException {
    Memory target = Memory.of("target", 12);

    int crc =
        new SliceCopier()
            .copy(SliceCopy.padding(new Address(0, 0, 2), 8, 0x3dcccccdL, 4), null, target);

    assertThat(target.bytes().getInt(2)).isEqualTo(0x3dcccccd);
    assertThat(target.bytes().getInt(6)).isEqualTo(0x3dcccccd);
    assertThat(target.bytes().getShort(10)).isZero();
    assertThat(crc).isEqualTo(crc(Arrays.copyOfRange(target.bytes().array(), 2, 10)));
  }

  @Test
  void whatIsOnlyReadIsNotWritten() throws IOException {
    Memory source = Memory.of("source", 10);
    source.bytes().put(0, (byte) 9);

    assertThat(
            new SliceCopier()
                .copy(SliceCopy.readOnly(new Address(0, 0, 0), 10), file -> source, null))
        .isEqualTo(crc(source.bytes().array()));
  }

  @Test
  void aSourceThatEndsTooEarlyIsRefused() {
    Memory source = Memory.of("short.pt", 10);

    assertThatThrownBy(
            () ->
                new SliceCopier()
                    .copy(
                        SliceCopy.of(new Address(0, 0, 4), new Address(0, 0, 0), 7, true),
                        file -> source,
                        Memory.of("target", 7)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("short.pt")
        .hasMessageContaining("became shorter");
  }

  @Test
  void aWeightThatIsNotItsMasterCastIsRefusedByParameterAndElement() {
    int elements = MEBIBYTE / 4 + 10;
    Memory masters = Memory.of("masters.pt", 4 * elements);
    Memory weights = Memory.of("weights.pt", 2 * elements + 6);
    for (int i = 0; i < elements; i++) {
      masters.bytes().putInt(4 * i, 0x3f800000);
      weights.bytes().putShort(6 + 2 * i, (short) 0x3f80);
    }
    int wrong = elements - 3;
    weights.bytes().putShort(6 + 2 * wrong, (short) 0x3f81);
    CastCheck cast =
        new CastCheck("fc.weight", 1000, DType.FLOAT32, DType.BFLOAT16, new Address(1, 0, 6));
    SliceCopy slice =
        new SliceCopy(
            new Address(0, 0, 0),
            new Address(0, 0, 0),
            4L * elements,
            true,
            0,
            1,
            cast,
            null,
            null);

    assertThatThrownBy(
            () ->
                new SliceCopier()
                    .copy(
                        slice,
                        file -> file == 0 ? masters : weights,
                        Memory.of("target", 4 * elements)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("parameter fc.weight")
        .hasMessageContaining("element " + (1000 + wrong) + " ")
        .hasMessageContaining("weights.pt at byte " + (6 + 2 * wrong));
  }

  @Test
  void elementsAreCastWhileTheyAreCopiedAndTheirNewBytesHaveTheCrc() throws IOException {
    int elements = MEBIBYTE / 2 + 77; // more than one buffer
    Memory masters = Memory.of("masters.pt", 4 * elements + 8);
    byte[] expected = new byte[2 * elements];
    ByteBuffer weights = ByteBuffer.wrap(expected).order(ByteOrder.LITTLE_ENDIAN);
    Random random = new Random(3);
    for (int i = 0; i < elements; i++) {
      int bits = Float.floatToRawIntBits((float) random.nextGaussian());
      masters.bytes().putInt(8 + 4 * i, bits);
      weights.putShort((short) WeightCast.toBits(bits, DType.FLOAT16));
    }
    Memory target = Memory.of("target", 2 * elements + 6);
    Conversion conversion = new Conversion(DType.FLOAT32, DType.FLOAT16);
    int first = MEBIBYTE / 4 + 5;

    List<Integer> crcs = new ArrayList<>();
    new SliceCopier()
        .copy(
            List.of(
                SliceCopy.derived(
                    new Address(0, 0, 8), new Address(0, 0, 6), 2L * first, null, conversion),
                SliceCopy.derived(
                    new Address(0, 0, 8 + 4L * first),
                    new Address(0, 0, 6 + 2L * first),
                    2L * (elements - first),
                    null,
                    conversion)),
            file -> masters,
            target,
            (slice, sums) -> crcs.add(sums.target().crc32()));

    assertThat(Arrays.copyOfRange(target.bytes().array(), 6, 6 + 2 * elements)).isEqualTo(expected);
    assertThat(crcs)
        .containsExactly(
            crc(Arrays.copyOf(expected, 2 * first)),
            crc(Arrays.copyOfRange(expected, 2 * first, 2 * elements)));
  }

  @Test
  void whatIsCastCanProveTheBytesThatWereRead() throws IOException {
    int elements = MEBIBYTE / 2 + 77; // more than one buffer
    Memory halves = Memory.of("halves.pt", 2 * elements + 8);
    new Random(4).nextBytes(halves.bytes().array());
    Memory target = Memory.of("target", 4 * elements);
    SliceCopy slice =
        new SliceCopy(
            new Address(0, 0, 8),
            new Address(0, 0, 0),
            4L * elements,
            true,
            0,
            1,
            null,
            null,
            new Conversion(DType.BFLOAT16, DType.FLOAT32));

    List<Integer> crcs = new ArrayList<>();
    new SliceCopier()
        .copy(
            List.of(slice),
            file -> halves,
            target,
            (copied, sums) -> crcs.addAll(List.of(sums.source().crc32(), sums.target().crc32())));

    assertThat(crcs)
        .containsExactly(
            crc(Arrays.copyOfRange(halves.bytes().array(), 8, 8 + 2 * elements)),
            crc(target.bytes().array()));
    for (int i = 0; i < elements; i++) {
      assertThat(target.bytes().getInt(4 * i)).isEqualTo(halves.bytes().getShort(8 + 2 * i) << 16);
    }
  }
}
