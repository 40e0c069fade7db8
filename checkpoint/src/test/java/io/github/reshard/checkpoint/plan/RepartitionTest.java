package io.github.reshard.checkpoint.plan;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Models;
import io.github.reshard.checkpoint.state.Models.Model;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;

class RepartitionTest implements Models.Provided {
  @Property(tries = 200)
  void theCopiesMakeThePartitionsThatTheTargetRanksWouldHave(
      @ForAll("models") Model model, @ForAll("worldSizes") int from, @ForAll("worldSizes") int to) {
    Scattered expected = Scattered.of(model, to);

    assertThat(resharded(Scattered.of(model, from), model, to)).isDeepEqualTo(expected.files);
  }

  @Property(tries = 100)
  void thereAndBackIsNoChange(
      @ForAll("models") Model model, @ForAll("worldSizes") int from, @ForAll("worldSizes") int to) {
    Scattered source = Scattered.of(model, from);
    Scattered between = Scattered.empty(model, to);
    apply(source.copiesTo(between), source, between);

    assertThat(resharded(between, model, from)).isDeepEqualTo(source.files);
  }

  private static byte[][] resharded(Scattered source, Model model, int ranks) {
    Scattered target = Scattered.empty(model, ranks);
    apply(source.copiesTo(target), source, target);
    return target.files;
  }

  /** Does the copies; no byte of the target may be written twice. */
  private static void apply(List<SliceCopy> copies, Scattered source, Scattered target) {
    boolean[][] written =
        Arrays.stream(target.files).map(f -> new boolean[f.length]).toArray(boolean[][]::new);
    for (SliceCopy copy : copies) {
      Address to = copy.target();
      for (int i = 0; i < copy.bytes(); i++) {
        int at = (int) to.offset() + i;
        assertThat(written[to.file()][at]).isFalse();
        written[to.file()][at] = true;
        target.files[to.file()][at] =
            copy.source() == null
                ? 0
                : source.files[copy.source().file()][(int) copy.source().offset() + i];
      }
    }
    for (int file = 0; file < written.length; file++) {
      for (TorchFile.Entry entry : target.entries.get(file)) {
        for (int i = 0; i < entry.bytes(); i++) {
          assertThat(written[file][(int) entry.payloadOffset() + i]).isTrue();
        }
      }
    }
  }

  @Property(tries = 200)
  void everySourceByteIsReadOnceForItsProof(
      @ForAll("models") Model model, @ForAll("worldSizes") int from, @ForAll("worldSizes") int to) {
    Scattered source = Scattered.of(model, from);
    Scattered target = Scattered.empty(model, to);
    List<SliceCopy> read = new ArrayList<>();
    for (SliceCopy copy : source.copiesTo(target)) {
      if (copy.proves()) {
        read.add(copy);
      }
    }
    for (int file = 0; file < from; file++) {
      List<SliceCopy> unused = UnusedBytes.of(source.plan(source.to(target)), file);
      assertThat(unused).allMatch(copy -> copy.target() == null && copy.proves());
      read.addAll(unused);
    }
    int[][] times = Arrays.stream(source.files).map(f -> new int[f.length]).toArray(int[][]::new);
    for (SliceCopy copy : read) {
      for (int i = 0; i < copy.bytes(); i++) {
        times[copy.source().file()][(int) copy.source().offset() + i]++;
      }
    }
    int[][] once = Arrays.stream(source.files).map(f -> new int[f.length]).toArray(int[][]::new);
    for (int file = 0; file < from; file++) {
      for (TorchFile.Entry entry : source.entries.get(file)) {
        int start = (int) entry.payloadOffset();
        Arrays.fill(once[file], start, start + (int) entry.bytes(), 1);
      }
    }
    assertThat(times).isDeepEqualTo(once);
  }

  @Test
  void bytesOfTwoTensorsAreRefused() {
    Model model = new Model(List.of(List.of(List.of(4L))), false);
    Scattered source = Scattered.of(model, 1);
    PartitionedModel shared = source.to(Scattered.empty(model, 2));
    PartitionedModel.Partition moment = new PartitionedModel.Partition(0, 0, "exp_avg");
    PartitionedModel.Partition master = new PartitionedModel.Partition(0, 0, States.MASTER);
    shared.sourcePartitions().put(moment, shared.sourcePartitions().get(master));

    assertThatThrownBy(() -> UnusedBytes.of(source.plan(shared), 0))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("rank0, entry data/1")
        .hasMessageContaining("belong to two tensors");
  }

  @Property
  void piecesTileTheSliceAndStayInTheirParts(
      @ForAll @IntRange(max = 200) int offset,
      @ForAll @IntRange(min = 1, max = 300) int bytes,
      @ForAll @IntRange(min = 1, max = 64) int partBytes) {
    SliceCopy slice = SliceCopy.of(new Address(1, 2, 1000), new Address(3, 4, offset), bytes, true);
    long[] done = {0};
    Cut.intoParts(
        slice,
        partBytes,
        (part, piece) -> {
          assertThat(part.file()).isEqualTo(3);
          assertThat(part.source()).isFalse();
          assertThat(piece.source()).isEqualTo(new Address(1, 2, 1000 + done[0]));
          assertThat(piece.target()).isEqualTo(new Address(3, 4, offset + done[0]));
          assertThat(piece.target().offset() / partBytes).isEqualTo(part.part());
          assertThat((piece.target().offset() + piece.bytes() - 1) / partBytes)
              .isEqualTo(part.part());
          done[0] += piece.bytes();
        });
    assertThat(done[0]).isEqualTo(bytes);
  }

  @Property
  void aPieceOfMasterWeightsHoldsWholeElementsAndKnowsTheirWeights(
      @ForAll @IntRange(max = 200) int offset,
      @ForAll @IntRange(min = 1, max = 80) int elements,
      @ForAll @IntRange(min = 1, max = 64) int partBytes) {
    CastCheck cast = new CastCheck("w", 10, DType.FLOAT32, DType.BFLOAT16, new Address(7, 0, 500));
    SliceCopy slice =
        new SliceCopy(
            new Address(1, 2, 1000),
            new Address(3, 4, offset),
            4L * elements,
            true,
            0,
            1,
            cast,
            null,
            null);
    long[] done = {0};
    Cut.intoParts(
        slice,
        partBytes,
        (part, piece) -> {
          assertThat(piece.bytes() % 4).isZero();
          assertThat(piece.target().offset() / partBytes).isEqualTo(part.part());
          assertThat(piece.cast().start()).isEqualTo(10 + done[0] / 4);
          assertThat(piece.cast().weights()).isEqualTo(new Address(7, 0, 500 + done[0] / 2));
          done[0] += piece.bytes();
        });
    assertThat(done[0]).isEqualTo(4L * elements);
  }

  @Test
  void whatIsOnlyReadIsCutByTheSource() {
    List<PartId> parts = new ArrayList<>();
    Cut.intoParts(
        SliceCopy.readOnly(new Address(5, 1, 90), 20), 100, (part, piece) -> parts.add(part));

    assertThat(parts).containsExactly(new PartId(true, 0, 5), new PartId(true, 1, 5));
  }

  @Test
  void paddingIsFilledWithWhatTheSourceShows() {
    Model model = new Model(List.of(List.of(List.of(1L))), false);
    Scattered source = Scattered.of(model, 1);
    Scattered target = Scattered.empty(model, 2);
    ReshardPlan zero = source.plan(source.to(target));
    ReshardPlan plan =
        new ReshardPlan(
            zero.checkpoint(),
            zero.tag(),
            1,
            2,
            zero.parallelism(),
            zero.sources(),
            zero.targets(),
            zero.models(),
            zero.carried(),
            List.of(new ReshardPlan.Padding(0, 0, "exp_avg", 0x2e66)),
            zero.evidence(),
            zero.notes(),
            zero.partBytes());
    List<SliceCopy> padding = new ArrayList<>();
    Repartition.targetPadding(plan, 0, 1, padding::add);

    Map<PartitionedModel.Partition, Address> at = target.partitions;
    assertThat(padding)
        .containsExactly(
            SliceCopy.padding(
                at.get(new PartitionedModel.Partition(1, 0, "exp_avg")), 4, 0x2e66, 2),
            SliceCopy.padding(
                at.get(new PartitionedModel.Partition(1, 0, States.MASTER)), 8, 0, 4));
  }
}
