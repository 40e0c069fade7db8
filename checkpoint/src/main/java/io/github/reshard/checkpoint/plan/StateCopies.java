package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.plan.Overlap.Run;
import io.github.reshard.checkpoint.plan.ParameterTensor.Piece;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.StateLayout;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.torch.DType;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;

/** What has to move of one parameter's states. */
final class StateCopies {
  private final PartitionedModel model;
  private final int parameter;
  private final ParamId id;
  private final List<Long> shape;
  private final ModuleWeight weight;

  StateCopies(PartitionedModel model, int parameter, ParamId id) {
    this.model = model;
    this.parameter = parameter;
    this.id = id;
    this.shape = model.parameters().get(parameter).shape();
    this.weight = model.weights().get(parameter);
  }

  /** Whose local tensor a slice of {@code rank} is of, see {@link RankSlice#wholeOf}. */
  static int holderOf(StateLayout layout, int rank) {
    return rank < 0 ? RankSlice.WHOLE - rank : layout.holderOf(rank);
  }

  /**
   * Elements of a local tensor that lie in one run.
   *
   * @param at where the first one lies
   */
  private record Placed(long start, long elements, Address at) {
    static List<Run> runs(List<Placed> placed) {
      return placed.stream().map(p -> new Run(p.start(), p.elements())).toList();
    }

    Address address(long element, int width) {
      return at.plus((element - start) * width);
    }
  }

  /** Adds what moves of {@code state}, whose pieces are in order, and all there. */
  void add(String state, List<Piece> pieces, Consumer<SliceCopy> out) {
    if (pieces.isEmpty()) {
      return;
    }
    DType dtype = pieces.get(0).dtype();
    List<List<Placed>> from = new ArrayList<>();
    for (int holder = 0; holder < model.source().holders(); holder++) {
      from.add(new ArrayList<>());
    }
    for (Piece piece : pieces) {
      from.get(holderOf(model.source(), piece.rank()))
          .add(new Placed(piece.start(), piece.elements(), piece.address()));
    }
    boolean masters = state.equals(States.MASTER) && weight != null;
    if (masters && weight.isDerived()) {
      castOfMasters(dtype, from, out);
    }
    boolean module = state.equals(States.MODULE);
    boolean moves = module && weight != null;
    DType written = model.written(parameter, state, dtype);
    List<List<Placed>> to = moves ? weights(weight.targets()) : partitions(state, written.bytes());
    boolean claims = masters && !weight.isDerived();
    move(
        from,
        to,
        dtype.bytes(),
        written.bytes(),
        (source, shared, s, t) -> {
          long bytes = shared.elements() * written.bytes();
          TensorRun run = new TensorRun(id, state, shared.tensor() * written.bytes());
          SliceCopy slice =
              written == dtype
                  ? SliceCopy.ofTensor(
                      s, t, bytes, claims ? claim(source, shared, dtype) : null, run)
                  : SliceCopy.castOfTensor(s, t, bytes, run, new Conversion(dtype, written));
          return slice.in(shared.rows());
        },
        out);
    for (int holder = 1; holder < from.size(); holder++) {
      if (model.source().copyOf(holder, parameter) > 0) {
        compare(state, dtype, from, holder, out);
      }
    }
  }

  private CastCheck claim(int holder, Overlap.Shared shared, DType dtype) {
    Address own = weight.sources().get(holder);
    if (own == null) {
      return null;
    }
    return new CastCheck(
        id.name(),
        shared.tensor(),
        dtype,
        weight.dtype(),
        own.plus(shared.source() * weight.dtype().bytes()));
  }

  /** The module's weights that the target has and the source has not. */
  private void castOfMasters(DType masters, List<List<Placed>> from, Consumer<SliceCopy> out) {
    DType module = weight.dtype();
    move(
        from,
        weights(weight.targets()),
        masters.bytes(),
        module.bytes(),
        (source, shared, s, t) ->
            SliceCopy.derived(
                    s,
                    t,
                    shared.elements() * module.bytes(),
                    new TensorRun(id, States.MODULE, shared.tensor() * module.bytes()),
                    masters == module ? null : new Conversion(masters, module))
                .in(shared.rows()),
        out);
  }

  /** The local tensors of each target holder, which lie there whole. */
  private List<List<Placed>> weights(List<Address> at) {
    List<List<Placed>> placed = new ArrayList<>();
    for (int holder = 0; holder < at.size(); holder++) {
      long elements = model.target().localTensor(holder, parameter).elements();
      Address begin = at.get(holder);
      placed.add(begin == null ? List.of() : List.of(new Placed(0, elements, begin)));
    }
    return placed;
  }

  /** What the partitions of each target holder have. */
  private List<List<Placed>> partitions(String state, int width) {
    ZeroLayout target = model.target();
    List<List<Placed>> placed = new ArrayList<>();
    for (int holder = 0; holder < target.holders(); holder++) {
      placed.add(new ArrayList<>());
    }
    for (Extent extent : target.extentsOf(parameter)) {
      Address partition =
          model.targetPartitions().get(new Partition(extent.rank(), extent.bucket(), state));
      placed
          .get(target.holderOf(extent.rank()))
          .add(
              new Placed(
                  extent.parameterStart(),
                  extent.elements(),
                  partition.plus(extent.bucketStart() * width)));
    }
    return placed;
  }

  /** Makes a slice of what two runs share. */
  private interface Shares {
    /**
     * @param holder whose local tensor it is read of
     */
    SliceCopy slice(int holder, Overlap.Shared shared, Address source, Address target);
  }

  /** Of a parameter that is there more than once, the first copy goes to all of the target's. */
  private void move(
      List<List<Placed>> from,
      List<List<Placed>> to,
      int sourceWidth,
      int targetWidth,
      Shares shares,
      Consumer<SliceCopy> out) {
    for (int s = 0; s < from.size(); s++) {
      if (model.source().copyOf(s, parameter) != 0) {
        continue;
      }
      LocalTensor source = model.source().localTensor(s, parameter);
      List<Placed> read = from.get(s);
      for (int t = 0; t < to.size(); t++) {
        boolean again = model.target().copyOf(t, parameter) > 0;
        LocalTensor target = model.target().localTensor(t, parameter);
        List<Placed> written = to.get(t);
        for (Overlap.Shared shared :
            Overlap.of(
                shape, source, Placed.runs(read), target, Placed.runs(written), targetWidth)) {
          SliceCopy slice =
              shares.slice(
                  s,
                  shared,
                  read.get(shared.from()).address(shared.source(), sourceWidth),
                  written.get(shared.to()).address(shared.target(), targetWidth));
          out.accept(again ? slice.again() : slice);
        }
      }
    }
  }

  /** Holds the local tensor that {@code holder} has against the same one of the first copy. */
  private void compare(
      String state, DType dtype, List<List<Placed>> from, int holder, Consumer<SliceCopy> out) {
    int width = dtype.bytes();
    LocalTensor local = model.source().localTensor(holder, parameter);
    int like = holderLike(local);
    LocalTensor whole = LocalTensor.whole(local.shape());
    List<Placed> own = from.get(holder);
    List<Placed> first = from.get(like);
    for (Overlap.Shared shared :
        Overlap.of(local.shape(), whole, Placed.runs(own), whole, Placed.runs(first), width)) {
      CastCheck equal =
          new CastCheck(
              id.toString(),
              shared.tensor(),
              dtype,
              dtype,
              first.get(shared.to()).address(shared.target(), width),
              new CastCheck.Copies(state, holder, like));
      out.accept(
          SliceCopy.copyOf(
              own.get(shared.from()).address(shared.source(), width),
              null,
              shared.elements() * width,
              equal));
    }
  }

  /** Who has this local tensor in the first copy. */
  private int holderLike(LocalTensor local) {
    for (int holder = 0; holder < model.source().holders(); holder++) {
      if (model.source().copyOf(holder, parameter) == 0
          && model.source().localTensor(holder, parameter).equals(local)) {
        return holder;
      }
    }
    throw new IllegalStateException("no first copy of " + local + " of " + id);
  }
}
