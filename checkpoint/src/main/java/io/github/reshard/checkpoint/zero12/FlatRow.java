package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.copy.WeightCast;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.Replicated;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.DType;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;

/**
 * One state of a param group as the ranks that share it hold it, one partition behind the other,
 * before it is known which parameter lies where.
 *
 * @param reading for its files
 * @param partitions where each partition begins
 * @param partitionElements elements of a partition, padding included
 * @param elements elements of the group, without padding
 * @param dtype the type of an element
 */
record FlatRow(
    DeepSpeedReading reading,
    List<Address> partitions,
    long partitionElements,
    long elements,
    DType dtype) {
  /** Elements that are compared at either end of a weight before all of them are. */
  private static final int SAMPLE = 1024;

  private static final int PIECE = 1 << 20;

  /** Of all states the master weights. */
  static FlatRow masters(List<FlatRow> states) {
    return states.get(states.size() - 1);
  }

  /**
   * All states of {@code group}, the master weights last.
   *
   * @param sharing the shards of the ranks that share the group, in the order of the partitions
   * @throws io.github.reshard.checkpoint.RefusedException if their lengths do not fit together
   */
  static List<FlatRow> of(DeepSpeedReading reading, List<Shard> sharing, int group) {
    OptimizerStates first = sharing.get(0).states();
    List<OptimizerStates.GroupTensor> firstTensors = partitioned(first, group);
    // Before DeepSpeed 0.16.4 the last rank alone records the padding, since then each its own.
    // Either way the first rank's master is as much shorter as it says.
    long partition =
        firstTensors.get(firstTensors.size() - 1).tensor().numel()
            + (first.isBf16Optimizer()
                ? 0
                : first.numbers(OptimizerStates.GROUP_PADDINGS).get(group));
    long padding =
        sharing.stream()
            .mapToLong(s -> s.states().numbers(OptimizerStates.GROUP_PADDINGS).get(group))
            .sum();
    long elements = Math.multiplyExact(partition, (long) sharing.size()) - padding;
    List<FlatRow> rows = new ArrayList<>();
    for (int t = 0; t < firstTensors.size(); t++) {
      List<Address> partitions = new ArrayList<>();
      for (Shard shard : sharing) {
        List<OptimizerStates.GroupTensor> tensors = partitioned(shard.states(), group);
        OptimizerStates.GroupTensor own = tensors.get(Math.min(t, tensors.size() - 1));
        long least = Math.max(0, Math.min(partition, elements - partition * partitions.size()));
        if (!own.state().equals(firstTensors.get(t).state()) || own.tensor().numel() < least) {
          throw own.value()
              .refused(
                  "expected %s of at least %d elements, as the shard of the first rank and group_paddings say, found %s of %d. The shards do not belong together."
                      .formatted(
                          firstTensors.get(t).state(), least, own.state(), own.tensor().numel()));
        }
        partitions.add(
            reading.address(shard.source(), shard.file(), own.value().where(), own.tensor()));
      }
      rows.add(
          new FlatRow(
              reading, partitions, partition, elements, firstTensors.get(t).tensor().dtype()));
    }
    return rows;
  }

  private static List<OptimizerStates.GroupTensor> partitioned(OptimizerStates states, int group) {
    return states.tensors(group).stream()
        .filter(t -> t.state().equals(States.MASTER) || !Replicated.isReplicated(t.tensor()))
        .toList();
  }

  /** {@code count} elements from {@code from} on. */
  ByteBuffer read(long from, long count) throws IOException {
    ByteBuffer bytes = ByteBuffer.allocate(Math.toIntExact(count * dtype.bytes()));
    long at = from;
    while (at < from + count) {
      int partition = Math.toIntExact(at / partitionElements);
      long inside = at % partitionElements;
      long length = Math.min(from + count - at, partitionElements - inside);
      bytes.limit(bytes.position() + Math.toIntExact(length * dtype.bytes()));
      read(reading, partitions.get(partition).plus(inside * dtype.bytes()), bytes);
      at += length;
    }
    return bytes.flip().order(ByteOrder.LITTLE_ENDIAN);
  }

  private static void read(DeepSpeedReading reading, Address from, ByteBuffer into)
      throws IOException {
    try (RangedFile file = reading.store().open(reading.sources().get(from.file()).stat())) {
      file.readFully(from.offset(), into);
    }
  }

  /**
   * Whether the elements from {@code at} on, cast to the weight's type, are the weight bit for bit.
   *
   * @param thoroughly all elements are compared instead of those at either end
   */
  boolean gives(long at, StoredWeight weight, boolean thoroughly) throws IOException {
    long end = weight.elements();
    if (end > elements - at || !WeightCast.supports(dtype, weight.dtype())) {
      return false;
    }
    int step = thoroughly ? PIECE : SAMPLE;
    for (long done = 0; done < end; ) {
      long length = Math.min(step, end - done);
      ByteBuffer weights =
          ByteBuffer.allocate(Math.toIntExact(length * weight.dtype().bytes()))
              .order(ByteOrder.LITTLE_ENDIAN);
      read(reading, weight.address().plus(done * weight.dtype().bytes()), weights);
      ByteBuffer masters = read(at + done, length);
      if (WeightCast.firstMismatch(masters, dtype, weights.flip(), weight.dtype()) >= 0) {
        return false;
      }
      done = !thoroughly && done == 0 && end > 2 * SAMPLE ? end - SAMPLE : done + length;
    }
    return true;
  }

  /** At most {@code count} elements at the beginning of a weight. */
  ByteBuffer head(StoredWeight weight, int count) throws IOException {
    long bytes = Math.min(count, weight.elements()) * weight.dtype().bytes();
    ByteBuffer head = ByteBuffer.allocate(Math.toIntExact(bytes)).order(ByteOrder.LITTLE_ENDIAN);
    read(reading, weight.address(), head);
    return head.flip();
  }

  /** Whether masters, as far as they go, give the beginning of a weight. */
  boolean castsTo(ByteBuffer masters, StoredWeight weight, ByteBuffer head) {
    if (!WeightCast.supports(dtype, weight.dtype())) {
      return false;
    }
    int count =
        Math.min(masters.remaining() / dtype.bytes(), head.remaining() / weight.dtype().bytes());
    return WeightCast.firstMismatch(
            masters.slice(0, count * dtype.bytes()).order(ByteOrder.LITTLE_ENDIAN),
            dtype,
            head.slice(0, count * weight.dtype().bytes()).order(ByteOrder.LITTLE_ENDIAN),
            weight.dtype())
        < 0;
  }

  /** Whether {@code count} elements are the same bytes at two places. */
  boolean isSameAt(long one, long other, long count) throws IOException {
    for (long done = 0; done < count; done += PIECE) {
      long length = Math.min(PIECE, count - done);
      if (!read(one + done, length).equals(read(other + done, length))) {
        return false;
      }
    }
    return true;
  }
}
