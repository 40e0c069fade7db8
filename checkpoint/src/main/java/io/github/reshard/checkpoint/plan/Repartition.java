package io.github.reshard.checkpoint.plan;

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
import io.github.reshard.checkpoint.state.WholeParameters;
import io.github.reshard.checkpoint.state.ZeroLayout;
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

  /** What the model files hold of {@code parameter} and moves by itself, by holder. */
  public static List<RankSlice> moduleSlices(PartitionedModel model, int parameter) {
    ModuleWeight weight = model.weights().get(parameter);
    if (weight == null || !weight.moves()) {
      return List.of();
    }
    List<RankSlice> slices = new ArrayList<>();
    for (int holder = 0; holder < weight.sources().size(); holder++) {
      Address source = weight.sources().get(holder);
      if (source == null) {
        continue;
      }
      slices.add(
          new RankSlice(
              RankSlice.wholeOf(holder),
              0,
              model.source().localTensor(holder, parameter).elements(),
              List.of(
                  new StateExtent(
                      States.MODULE,
                      weight.dtype(),
                      source.file(),
                      source.entry(),
                      source.offset()))));
    }
    return slices;
  }

  /**
   * Brings the slices of a parameter together.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if an element of a state is missing or
   *     there twice, or a state is unknown or of another type
   */
  public static ParameterTensor assemble(
      PartitionedModel model, int parameter, ParamId id, Iterable<RankSlice> slices) {
    return ParameterTensor.assemble(
        id,
        model.parameters().get(parameter).elements(),
        locals(model, parameter),
        expectedStates(model, parameter),
        holders(model, parameter),
        slices);
  }

  private static ParameterTensor.Locals locals(PartitionedModel model, int parameter) {
    StateLayout layout = model.source();
    return new ParameterTensor.Locals() {
      @Override
      public int holders() {
        return layout.holders();
      }

      @Override
      public int holderOf(int rank) {
        return StateCopies.holderOf(layout, rank);
      }

      /** The weight of a layer that is tied has one file, whatever stages have the layer. */
      @Override
      public long elements(int holder, String state) {
        ModuleWeight weight = model.weights().get(parameter);
        boolean isElsewhere =
            state.equals(States.MODULE)
                && weight != null
                && layout.copyOf(holder, parameter) > 0
                && weight.sources().get(holder) == null;
        return isElsewhere ? 0 : layout.localTensor(holder, parameter).elements();
      }
    };
  }

  /** How many slices of {@code parameter} there are, of all ranks and of the model files. */
  public static int slices(PartitionedModel model, int parameter) {
    int slices = moduleSlices(model, parameter).size();
    slices += model.source().extentsOf(parameter).size();
    if (!model.whole().isEmpty()) {
      for (Extent copy : new WholeParameters(model.source()).extentsOf(parameter)) {
        slices += slice(model, copy, true).states().isEmpty() ? 0 : 1;
      }
    }
    return slices;
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
    states.replaceAll((state, type) -> model.written(parameter, state, type));
    ModuleWeight weight = model.weights().get(parameter);
    if (weight != null && weight.isDerived()) {
      states.put(States.MODULE, weight.dtype());
    }
    return states;
  }

  /** Cuts a full tensor along the target's partitions. */
  public static void copies(
      PartitionedModel model, int parameter, ParameterTensor tensor, Consumer<SliceCopy> out) {
    int group = model.parameters().get(parameter).group();
    StateCopies copies = new StateCopies(model, parameter, tensor.id());
    tensor
        .states()
        .forEach(
            (state, pieces) -> {
              if (!state.equals(States.MODULE) && model.isWhole(group, state)) {
                copiesOfWhole(model, parameter, tensor, state, out);
              } else {
                copies.add(state, pieces, out);
              }
            });
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

  /** The padding of every partition that {@code rank} of the target holds. */
  public static void targetPadding(
      ReshardPlan plan, int modelIndex, int rank, Consumer<SliceCopy> out) {
    PartitionedModel model = plan.models().get(modelIndex);
    for (int b = 0; b < model.target().buckets(); b++) {
      int bucket = b;
      int group = model.target().groupOf(bucket);
      vocabularyPadding(model, rank, bucket, out);
      gaps(
          model.target().extentsIn(rank, bucket),
          model.target().elementsIn(rank, bucket),
          (start, elements) ->
              model
                  .states()
                  .get(group)
                  .forEach(
                      (state, read) -> {
                        if (model.isWhole(group, state)) {
                          return;
                        }
                        DType dtype = model.written(anyOf(model, group), state, read);
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

  /** The rows behind the end of a vocabulary that {@code rank} of the target holds: zeros. */
  private static void vocabularyPadding(
      PartitionedModel model, int rank, int bucket, Consumer<SliceCopy> out) {
    ZeroLayout target = model.target();
    int group = target.groupOf(bucket);
    for (Extent extent : target.extentsIn(rank, bucket)) {
      LocalTensor local = target.localTensor(target.holderOf(rank), extent.parameter());
      for (LocalTensor.Run padding : local.padding()) {
        LocalTensor.Run own = padding.within(extent.parameterStart(), extent.elements());
        if (own.elements() == 0) {
          continue;
        }
        long start = extent.bucketStart() + own.start() - extent.parameterStart();
        model
            .states()
            .get(group)
            .forEach(
                (state, dtype) ->
                    out.accept(
                        SliceCopy.padding(
                            model
                                .targetPartitions()
                                .get(new Partition(rank, bucket, state))
                                .plus(start * dtype.bytes()),
                            own.elements() * dtype.bytes(),
                            0,
                            dtype.bytes())));
      }
    }
  }

  /** A parameter of {@code group}; what is padding is written as its states are. */
  private static int anyOf(PartitionedModel model, int group) {
    int p = 0;
    while (p < model.parameters().size() - 1 && model.parameters().get(p).group() != group) {
      p++;
    }
    return p;
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
