package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.plan.ParameterTensor.Piece;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.WholeParameters;
import io.github.reshard.checkpoint.torch.DType;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;

/** The arithmetic between source and target: who holds which elements, and what has to move. */
public final class Repartition {
  private Repartition() {}

  /** Everything that {@code rank} of the source holds of the parameters of {@code model}. */
  public static void slicesOfRank(
      PartitionedModel model, int rank, java.util.function.ObjIntConsumer<RankSlice> out) {
    for (int bucket = 0; bucket < model.source().buckets(); bucket++) {
      for (Extent extent : model.source().extentsIn(rank, bucket)) {
        out.accept(slice(model, extent, false), extent.parameter());
      }
      if (model.whole().isEmpty()) {
        continue;
      }
      for (Extent extent : new WholeParameters(model.source()).extentsIn(rank, bucket)) {
        RankSlice slice = slice(model, extent, true);
        if (!slice.states().isEmpty()) {
          out.accept(slice, extent.parameter());
        }
      }
    }
  }

  /**
   * @param whole whether of the states that ranks share, or of those that are cut
   */
  private static RankSlice slice(PartitionedModel model, Extent extent, boolean whole) {
    int group = model.parameters().get(extent.parameter()).group();
    List<StateExtent> states = new ArrayList<>();
    model
        .statesOf(extent.parameter())
        .forEach(
            (state, dtype) -> {
              Address partition =
                  model
                      .sourcePartitions()
                      .get(new Partition(extent.rank(), extent.bucket(), state));
              if (partition != null && model.isWhole(group, state) == whole) {
                states.add(
                    new StateExtent(
                        state,
                        dtype,
                        partition.file(),
                        partition.entry(),
                        partition.offset() + extent.bucketStart() * dtype.bytes()));
              }
            });
    return new RankSlice(extent.rank(), extent.parameterStart(), extent.elements(), states);
  }

  /** For each state that ranks share, the ranks that hold a copy of {@code parameter}, in order. */
  public static Map<String, List<Integer>> holders(PartitionedModel model, int parameter) {
    if (model.whole().isEmpty()) {
      return Map.of();
    }
    int group = model.parameters().get(parameter).group();
    Map<String, List<Integer>> holders = new LinkedHashMap<>();
    for (String state : model.statesOf(parameter).keySet()) {
      if (model.isWhole(group, state)) {
        holders.put(
            state,
            model.sourceOf(group, state).extentsOf(parameter).stream()
                .map(Extent::rank)
                .sorted()
                .toList());
      }
    }
    return holders;
  }

  /** What the model files hold of {@code parameter} and moves by itself, or null. */
  public static RankSlice moduleSlice(PartitionedModel model, int parameter) {
    ModuleWeight weight = model.weights().get(parameter);
    if (weight == null || !weight.moves()) {
      return null;
    }
    return new RankSlice(
        RankSlice.WHOLE,
        0,
        model.parameters().get(parameter).elements(),
        List.of(
            new StateExtent(
                States.MODULE,
                weight.dtype(),
                weight.source().file(),
                weight.source().entry(),
                weight.source().offset())));
  }

  /** The states that the slices of {@code parameter} must show, with their types. */
  public static Map<String, DType> expectedStates(PartitionedModel model, int parameter) {
    Map<String, DType> states = new LinkedHashMap<>(model.statesOf(parameter));
    ModuleWeight weight = model.weights().get(parameter);
    if (weight != null && weight.moves()) {
      states.put(States.MODULE, weight.dtype());
    }
    return states;
  }

  /** The states of {@code parameter} that the target gets, with their types, derived ones too. */
  public static Map<String, DType> movedStates(PartitionedModel model, int parameter) {
    Map<String, DType> states = expectedStates(model, parameter);
    ModuleWeight weight = model.weights().get(parameter);
    if (weight != null && weight.isDerived()) {
      states.put(States.MODULE, weight.dtype());
    }
    return states;
  }

  /** Cuts a full tensor along the target's partitions. */
  public static void copies(
      PartitionedModel model, int parameter, ParameterTensor tensor, Consumer<SliceCopy> out) {
    List<Extent> extents = model.target().extentsOf(parameter);
    int group = model.parameters().get(parameter).group();
    ModuleWeight weight = model.weights().get(parameter);
    tensor
        .states()
        .forEach(
            (state, pieces) -> {
              if (state.equals(States.MODULE)) {
                for (Piece piece : pieces) {
                  long bytes = piece.elements() * piece.dtype().bytes();
                  Address target =
                      weight.target().plus(piece.start() * (long) piece.dtype().bytes());
                  TensorRun run =
                      new TensorRun(
                          tensor.id(), state, piece.start() * (long) piece.dtype().bytes());
                  out.accept(SliceCopy.ofTensor(piece.address(), target, bytes, null, run));
                }
              } else if (model.isWhole(group, state)) {
                copiesOfWhole(model, parameter, tensor, state, out);
              } else {
                ModuleWeight claim = state.equals(States.MASTER) ? weight : null;
                if (claim != null && claim.isDerived()) {
                  castOfMasters(tensor.id(), pieces, claim, out);
                  claim = null;
                }
                copiesOfState(model, tensor.id(), state, pieces, extents, claim, out);
              }
            });
  }

  /** The module's weights that the target has and the source has not. */
  private static void castOfMasters(
      ParamId id, List<Piece> pieces, ModuleWeight weight, Consumer<SliceCopy> out) {
    DType module = weight.dtype();
    for (Piece piece : pieces) {
      long start = piece.start() * (long) module.bytes();
      out.accept(
          SliceCopy.derived(
              piece.address(),
              weight.target().plus(start),
              piece.elements() * module.bytes(),
              new TensorRun(id, States.MODULE, start),
              piece.dtype() == module ? null : new Conversion(piece.dtype(), module)));
    }
  }

  /**
   * Gives every rank of the target that touches the parameter a copy. Each copy of the source is
   * read, compared with the first and proven, whether or not one of the target is made of it.
   */
  private static void copiesOfWhole(
      PartitionedModel model,
      int parameter,
      ParameterTensor tensor,
      String state,
      Consumer<SliceCopy> out) {
    if (tensor.states().get(state).isEmpty()) {
      return;
    }
    Piece first = tensor.states().get(state).get(0);
    List<Piece> others = tensor.copies().getOrDefault(state, List.of());
    int group = model.parameters().get(parameter).group();
    int width = first.dtype().bytes();
    long bytes = tensor.elements() * width;
    List<Address> targets =
        model.targetOf(group, state).extentsOf(parameter).stream()
            .map(
                extent ->
                    model
                        .targetPartitions()
                        .get(new Partition(extent.rank(), extent.bucket(), state))
                        .plus(extent.bucketStart() * width))
            .toList();
    out.accept(
        SliceCopy.ofTensor(
            first.address(), targets.get(0), bytes, null, new TensorRun(tensor.id(), state, 0)));
    for (int c = 0; c < others.size(); c++) {
      Piece other = others.get(c);
      CastCheck equal =
          new CastCheck(
              tensor.id().toString(),
              0,
              first.dtype(),
              first.dtype(),
              first.address(),
              new CastCheck.Copies(state, other.rank(), first.rank()));
      Address target = c + 1 < targets.size() ? targets.get(c + 1) : null;
      out.accept(SliceCopy.copyOf(other.address(), target, bytes, equal));
    }
    for (int t = 1 + others.size(); t < targets.size(); t++) {
      out.accept(SliceCopy.of(first.address(), targets.get(t), bytes, false));
    }
  }

  private static void copiesOfState(
      PartitionedModel model,
      ParamId id,
      String state,
      List<Piece> pieces,
      List<Extent> extents,
      ModuleWeight weight,
      Consumer<SliceCopy> out) {
    int e = 0;
    for (Piece piece : pieces) {
      long at = piece.start();
      long end = piece.start() + piece.elements();
      int width = piece.dtype().bytes();
      while (at < end) {
        Extent extent = extents.get(e);
        long extentEnd = extent.parameterStart() + extent.elements();
        long stop = Math.min(end, extentEnd);
        Address partition =
            model.targetPartitions().get(new Partition(extent.rank(), extent.bucket(), state));
        Address target =
            partition.plus((extent.bucketStart() + at - extent.parameterStart()) * width);
        CastCheck cast =
            weight == null
                ? null
                : new CastCheck(
                    id.name(),
                    at,
                    piece.dtype(),
                    weight.dtype(),
                    weight.source().plus(at * weight.dtype().bytes()));
        out.accept(
            SliceCopy.ofTensor(
                piece.address().plus((at - piece.start()) * width),
                target,
                (stop - at) * width,
                cast,
                new TensorRun(id, state, at * width)));
        at = stop;
        if (at == extentEnd) {
          e++;
        }
      }
    }
  }

  /** The padding of every partition that {@code rank} of the target holds. */
  public static void targetPadding(
      ReshardPlan plan, int modelIndex, int rank, Consumer<SliceCopy> out) {
    PartitionedModel model = plan.models().get(modelIndex);
    for (int b = 0; b < model.target().buckets(); b++) {
      int bucket = b;
      int group = model.target().groupOf(bucket);
      gaps(
          model.target().extentsIn(rank, bucket),
          model.target().elementsIn(rank, bucket),
          (start, elements) ->
              model
                  .states()
                  .get(group)
                  .forEach(
                      (state, dtype) -> {
                        if (model.isWhole(group, state)) {
                          return;
                        }
                        Address partition =
                            model.targetPartitions().get(new Partition(rank, bucket, state));
                        out.accept(
                            SliceCopy.padding(
                                partition.plus(start * dtype.bytes()),
                                elements * dtype.bytes(),
                                plan.paddingBits(modelIndex, group, state),
                                dtype.bytes()));
                      }));
    }
  }

  /** Receives a run of elements. */
  interface Run {
    void accept(long start, long elements);
  }

  private static void gaps(List<Extent> extents, long elements, Run out) {
    long at = 0;
    for (Extent extent : extents) {
      if (extent.bucketStart() > at) {
        out.accept(at, extent.bucketStart() - at);
      }
      at = extent.bucketStart() + extent.elements();
    }
    if (at < elements) {
      out.accept(at, elements - at);
    }
  }
}
