package io.github.reshard.checkpoint.plan;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.copy.WeightCast;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.TensorParallelLayout;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;

/** Tensor parallelism cuts the parameters, ZeRO what is left: both together, at any two degrees. */
class TensorParallelTest {
  private static final Map<String, DType> STATES = new LinkedHashMap<>();

  static {
    STATES.put("exp_avg", DType.FLOAT16);
    STATES.put(States.MASTER, DType.FLOAT32);
  }

  /** The full tensors: of each parameter, each state's bytes. */
  private static final class Model {
    final List<Parameter> parameters = new ArrayList<>();
    final List<Integer> cutAlong = new ArrayList<>(); // a dimension, or -1 where replicated
    final List<Map<String, byte[]>> tensors = new ArrayList<>();
    final boolean roundRobin;
    final int groups;

    Model(Random random) {
      roundRobin = random.nextBoolean();
      groups = 1 + random.nextInt(2);
      for (int g = 0; g < groups; g++) {
        for (int n = 1 + random.nextInt(4); n > 0; n--) {
          List<Long> shape = Boxes.shape(random);
          Parameter parameter = new Parameter("p" + parameters.size(), shape, g);
          parameters.add(parameter);
          cutAlong.add(random.nextInt(shape.size() + 1) - 1);
          byte[] masters = new byte[(int) parameter.elements() * 4];
          random.nextBytes(masters);
          byte[] weights = new byte[masters.length / 2];
          for (int i = 0; i < masters.length / 4; i++) {
            int bits = Boxes.littleEndian(masters).getInt(4 * i);
            Boxes.littleEndian(weights)
                .putShort(2 * i, (short) WeightCast.toBits(bits, DType.BFLOAT16));
          }
          byte[] moments = new byte[weights.length];
          random.nextBytes(moments);
          tensors.add(Map.of("exp_avg", moments, States.MASTER, masters, States.MODULE, weights));
        }
      }
    }
  }

  /** The model at some degrees: a file for each rank, and one for each holder's weights. */
  private static final class Grid {
    final Model model;
    final TensorParallelLayout layout;
    final int files;
    final byte[][] bytes;
    final Map<Partition, Address> partitions = new HashMap<>();
    final List<List<Address>> weights = new ArrayList<>();
    final List<List<TorchFile.Entry>> entries = new ArrayList<>();

    Grid(Model model, int tp, int dp, Random random) {
      this.model = model;
      List<List<LocalTensor>> locals = new ArrayList<>();
      for (int t = 0; t < tp; t++) {
        locals.add(new ArrayList<>());
      }
      for (int p = 0; p < model.parameters.size(); p++) {
        List<Long> shape = model.parameters.get(p).shape();
        int dimension = model.cutAlong.get(p);
        long at = 0;
        for (int t = 0; t < tp; t++) {
          if (dimension < 0) {
            locals.get(t).add(LocalTensor.whole(shape));
            continue;
          }
          long left = shape.get(dimension) - at;
          long size = t == tp - 1 ? left : random.nextInt((int) left + 1);
          List<Long> offsets = new ArrayList<>(Collections.nCopies(shape.size(), 0L));
          List<Long> sizes = new ArrayList<>(shape);
          offsets.set(dimension, at);
          sizes.set(dimension, size);
          Box box = new Box(offsets, sizes);
          locals
              .get(t)
              .add(
                  new LocalTensor(
                      sizes,
                      List.of(new LocalTensor.Block(box, Collections.nCopies(shape.size(), 0L)))));
          at += size;
        }
      }
      List<FlatLayout> layouts = new ArrayList<>();
      for (List<LocalTensor> ofRank : locals) {
        List<Parameter> cut = new ArrayList<>();
        int[] counts = new int[model.groups];
        for (int p = 0; p < ofRank.size(); p++) {
          Parameter parameter = model.parameters.get(p);
          counts[parameter.group()]++;
          cut.add(new Parameter(parameter.name(), ofRank.get(p).shape(), parameter.group()));
        }
        List<FlatLayout.Group> groups = new ArrayList<>();
        for (int count : counts) {
          groups.add(FlatLayout.Group.dense(count, dp));
        }
        layouts.add(new FlatLayout(dp, cut, groups, model.roundRobin));
      }
      layout = new TensorParallelLayout(model.parameters, locals, layouts);
      files = tp * dp;
      bytes = new byte[files + tp][];
      for (int rank = 0; rank < files; rank++) {
        int end = 3;
        List<TorchFile.Entry> ofFile = new ArrayList<>();
        for (int bucket = 0; bucket < layout.buckets(); bucket++) {
          for (Map.Entry<String, DType> state : STATES.entrySet()) {
            int length = (int) layout.elementsIn(rank, bucket) * state.getValue().bytes();
            partitions.put(
                new Partition(rank, bucket, state.getKey()), new Address(rank, ofFile.size(), end));
            ofFile.add(new TorchFile.Entry("data/" + ofFile.size(), 0, end, length, 0, 0));
            end += length + 3;
          }
        }
        bytes[rank] = new byte[end];
        entries.add(ofFile);
      }
      for (int p = 0; p < model.parameters.size(); p++) {
        weights.add(new ArrayList<>());
      }
      for (int t = 0; t < tp; t++) {
        int end = 5;
        List<TorchFile.Entry> ofFile = new ArrayList<>();
        for (int p = 0; p < model.parameters.size(); p++) {
          weights.get(p).add(new Address(files + t, p, end));
          int length = (int) layout.localTensor(t, p).elements() * 2;
          ofFile.add(new TorchFile.Entry("data/" + p, 0, end, length, 0, 0));
          end += length;
        }
        bytes[files + t] = new byte[end];
        entries.add(ofFile);
      }
    }

    /** Element by element, as the layouts' own words say. */
    Grid fill() {
      for (int rank = 0; rank < files; rank++) {
        for (int bucket = 0; bucket < layout.buckets(); bucket++) {
          for (Extent extent : layout.extentsIn(rank, bucket)) {
            for (Map.Entry<String, DType> state : STATES.entrySet()) {
              Address at = partitions.get(new Partition(rank, bucket, state.getKey()));
              int width = state.getValue().bytes();
              for (long e = 0; e < extent.elements(); e++) {
                put(
                    extent.parameter(),
                    layout.holderOf(rank),
                    state.getKey(),
                    extent.parameterStart() + e,
                    width,
                    at.plus((extent.bucketStart() + e) * width));
              }
            }
          }
        }
      }
      for (int p = 0; p < weights.size(); p++) {
        for (int t = 0; t < layout.holders(); t++) {
          for (long e = 0; e < layout.localTensor(t, p).elements(); e++) {
            put(p, t, States.MODULE, e, 2, weights.get(p).get(t).plus(2 * e));
          }
        }
      }
      return this;
    }

    private void put(int p, int holder, String state, long element, int width, Address to) {
      LocalTensor local = layout.localTensor(holder, p);
      Box box = local.blocks().get(0).full();
      List<Long> shape = model.parameters.get(p).shape();
      long rest = element;
      long full = 0;
      long around = 1;
      for (int d = shape.size() - 1; d >= 0; d--) {
        full += (box.offsets().get(d) + rest % box.sizes().get(d)) * around;
        rest /= box.sizes().get(d);
        around *= shape.get(d);
      }
      System.arraycopy(
          model.tensors.get(p).get(state),
          (int) full * width,
          bytes[to.file()],
          (int) to.offset(),
          width);
    }

    PartitionedModel to(Grid target) {
      List<ModuleWeight> moved = new ArrayList<>();
      for (int p = 0; p < weights.size(); p++) {
        moved.add(new ModuleWeight(DType.BFLOAT16, weights.get(p), target.weights.get(p)));
      }
      return new PartitionedModel(
          0,
          ParamId.NO_EXPERT,
          layout,
          target.layout,
          Collections.nCopies(layout.buckets(), STATES),
          partitions,
          target.partitions,
          moved);
    }

    ReshardPlan plan(PartitionedModel model) {
      return Scattered.plan(bytes, entries, model);
    }

    /** Everything that moves, as the job makes it. */
    List<SliceCopy> copiesTo(Grid target) {
      PartitionedModel cut = to(target);
      List<List<RankSlice>> slices = new ArrayList<>();
      for (int p = 0; p < weights.size(); p++) {
        slices.add(new ArrayList<>(Repartition.moduleSlices(cut, p)));
      }
      for (int rank = 0; rank < layout.worldSize(); rank++) {
        Repartition.slicesOfRank(cut, rank, (slice, p) -> slices.get(p).add(slice));
      }
      List<SliceCopy> copies = new ArrayList<>();
      for (int p = 0; p < weights.size(); p++) {
        Collections.reverse(slices.get(p));
        Repartition.copies(
            cut,
            p,
            Repartition.assemble(cut, p, cut.id("checkpoint", p), slices.get(p)),
            copies::add);
      }
      ReshardPlan plan = plan(cut);
      for (int rank = 0; rank < target.layout.worldSize(); rank++) {
        Repartition.targetPadding(plan, 0, rank, copies::add);
      }
      for (int file = 0; file < bytes.length; file++) {
        copies.addAll(UnusedBytes.of(plan, file));
      }
      return copies;
    }
  }

  @Property(tries = 300)
  void theFilesAreWhatTheTargetDegreesWouldHave(
      @ForAll Random random,
      @ForAll @IntRange(min = 1, max = 4) int fromTp,
      @ForAll @IntRange(min = 1, max = 5) int fromDp,
      @ForAll @IntRange(min = 1, max = 4) int toTp,
      @ForAll @IntRange(min = 1, max = 5) int toDp,
      @ForAll @IntRange(min = 16, max = 300) int part) {
    Model model = new Model(random);
    Grid source = new Grid(model, fromTp, fromDp, random).fill();
    Grid target = new Grid(model, toTp, toDp, random);
    List<byte[]> empty = new ArrayList<>();
    for (byte[] file : target.bytes) {
      empty.add(file.clone());
    }

    Copies sums = Copies.copy(source.copiesTo(target), source.bytes, target.bytes, part, random);

    byte[][] written = new byte[target.bytes.length][];
    for (int file = 0; file < written.length; file++) {
      written[file] = target.bytes[file].clone();
      target.bytes[file] = empty.get(file);
    }
    assertThat(written).isDeepEqualTo(target.fill().bytes);
    requireSums(source, sums.read);
    requireSums(target, sums.written);
    for (int p = 0; p < model.parameters.size(); p++) {
      for (Map.Entry<String, byte[]> tensor : model.tensors.get(p).entrySet()) {
        assertThat(
                SliceCrc.sum(
                    0, tensor.getValue().length, sums.tensors.get("p" + p + " " + tensor.getKey())))
            .isEqualTo(
                new SliceCrc.Sum.Whole(Copies.crc(tensor.getValue(), 0, tensor.getValue().length)));
      }
    }
  }

  private static void requireSums(Grid grid, Map<Address, List<SliceCrc>> sums) {
    for (int file = 0; file < grid.bytes.length; file++) {
      for (int e = 0; e < grid.entries.get(file).size(); e++) {
        TorchFile.Entry entry = grid.entries.get(file).get(e);
        assertThat(
                SliceCrc.sum(
                    entry.payloadOffset(),
                    entry.bytes(),
                    sums.getOrDefault(new Address(file, e, 0), List.of())))
            .isEqualTo(
                new SliceCrc.Sum.Whole(
                    Copies.crc(grid.bytes[file], entry.payloadOffset(), entry.bytes())));
      }
    }
  }

  @Property(tries = 100)
  void thereAndBackIsNoChange(
      @ForAll Random random,
      @ForAll @IntRange(min = 1, max = 4) int tp,
      @ForAll @IntRange(min = 1, max = 4) int dp) {
    Model model = new Model(random);
    Grid source = new Grid(model, 2, 3, random).fill();
    Grid between = new Grid(model, tp, dp, random);
    Copies.copy(source.copiesTo(between), source.bytes, between.bytes, 64, random);
    byte[][] expected = new byte[source.bytes.length][];
    for (int file = 0; file < expected.length; file++) {
      expected[file] = source.bytes[file].clone();
    }

    List<SliceCopy> back = between.copiesTo(source);
    for (byte[] file : source.bytes) {
      java.util.Arrays.fill(file, (byte) 0);
    }
    Copies.copy(back, between.bytes, source.bytes, 64, random);

    assertThat(source.bytes).isDeepEqualTo(expected);
  }

  @Property(tries = 100)
  void copiesOfAReplicatedParameterThatDifferAreRefused(@ForAll Random random) {
    Model model = new Model(random);
    Collections.fill(model.cutAlong, -1);
    Grid source = new Grid(model, 3, 2, random).fill();
    Grid target = new Grid(model, 2, 1, random);
    int parameter = random.nextInt(model.parameters.size());
    byte[] own = model.tensors.get(parameter).get("exp_avg").clone();
    model.tensors.get(parameter).get("exp_avg")[random.nextInt(own.length)] ^= 4;
    Grid other = new Grid(model, 3, 2, random).fill();
    System.arraycopy(other.bytes, 4, source.bytes, 4, 2); // the optimizer files of tensor rank 2

    assertThatThrownBy(
            () -> Copies.copy(source.copiesTo(target), source.bytes, target.bytes, 64, random))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("parameter p" + parameter)
        .hasMessageContaining("must hold the same exp_avg");
  }
}
