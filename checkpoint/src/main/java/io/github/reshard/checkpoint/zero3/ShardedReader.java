package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.RanksPresent;
import io.github.reshard.checkpoint.deepspeed.ReplicaComparison;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.format.CheckpointReader;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.OtherViews;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import java.util.SortedMap;

/** Reads a checkpoint of ZeRO-3. */
public final class ShardedReader implements CheckpointReader {
  private final SourceStore store;
  private final CheckpointFiles files;

  public ShardedReader(SourceStore store, CheckpointFiles files) {
    this.store = store;
    this.files = files;
  }

  @Override
  public TrainingState read(int targetWorldSize) throws IOException {
    DeepSpeedReading reading = new DeepSpeedReading(store, files, targetWorldSize);
    for (FileStat layer : files.layers()) {
      reading.carry(layer.name(), true, reading.addSource(layer));
    }
    for (FileStat expert : files.experts()) {
      throw new RefusedException(
          expert.path(), "a mixture of experts under ZeRO-3 is not supported.");
    }
    for (int mpRank : files.rankModels().keySet()) {
      readPart(reading, mpRank);
    }
    reading.note(
        "ZeRO-3 stores no module weights; that the masters belong to these parameters is proven by"
            + " their shapes, not by their values.");
    reading.finish();
    return reading.state();
  }

  private static List<ReadFile> read(DeepSpeedReading reading, Collection<FileStat> stats)
      throws IOException {
    List<ReadFile> read = new ArrayList<>();
    reading.readEach(
        stats, (stat, file) -> read.add(new ReadFile(reading.addSource(stat, file), file)));
    return read;
  }

  private static void readPart(DeepSpeedReading reading, int mpRank) throws IOException {
    SortedMap<Integer, FileStat> ofModels = reading.files().rankModels().get(mpRank);
    FileStat firstStat = ofModels.get(ofModels.firstKey());
    ReadFile head = new ReadFile(0, reading.read(firstStat));
    int ranks = new ModelStates(head.root()).dpWorldSize();
    reading.setDataParallelRanks(firstStat, ranks);
    SortedMap<Integer, FileStat> modelStats =
        RanksPresent.of(reading, firstStat.name(), mpRank, "model files", ofModels, ranks);
    SortedMap<Integer, FileStat> optimizerStats =
        RanksPresent.of(
            reading,
            firstStat.name(),
            mpRank,
            "optimizer files",
            reading.files().optimizers().get(mpRank),
            ranks);
    List<ReadFile> models = read(reading, modelStats.values());
    ModelStates first = new ModelStates(models.get(0).root());
    reading.setParallelism(first);
    List<ReadFile> optimizers = read(reading, optimizerStats.values());
    ShardedStates states = new ShardedStates(optimizers.get(0).root());
    ShardedKinds.requireSupported(reading, first, states);
    states.requireNoMuon(Optional.of(first.root()));

    SubGroups subGroups = SubGroups.of(first, states);
    long subGroupSize = subGroups.size(first, ranks, reading::targetWorldSize, reading::note);
    ShardedLayout layout = new ShardedLayout(ranks, subGroups.parameters(), subGroupSize);
    List<Parameter> frozen = partitionedFrozen(first);
    ParameterSet trained = begin(mpRank, layout);
    ParameterSet pieces = begin(mpRank, new ShardedLayout(ranks, frozen, 0));
    Shared<List<Located>> partitions = new Shared<>();
    Shared<List<Located>> fragments = new Shared<>();
    for (int rank = 0; rank < ranks; rank++) {
      ReadFile optimizer = optimizers.get(rank);
      place(
          reading,
          rank,
          optimizer,
          partitions.get(optimizer, () -> partitions(optimizer, trained)),
          trained);
      if (!frozen.isEmpty()) {
        ReadFile model = models.get(rank);
        place(
            reading,
            rank,
            model,
            fragments.get(model, () -> fragments(model, first, pieces)),
            pieces);
      }
    }
    requireReplicasAgree(reading, optimizers, layout);
    ModelFileComparison comparison =
        new ModelFileComparison(frozen.stream().map(Parameter::name).toList());
    for (int rank = 0; rank < models.size(); rank++) {
      comparison.add(rank, models.get(rank).file());
    }
    comparison.note().ifPresent(reading::note);
    reading.steps().addModel(first, models.size());
    addSteps(reading, optimizers);
    int index = reading.addParameters(trained);
    reading.addPart(
        part(
            mpRank,
            Optional.of(models.get(0)),
            optimizers,
            index,
            frozen.isEmpty() ? OptionalInt.empty() : OptionalInt.of(reading.addParameters(pieces)),
            new SavedSharded(
                layout, subGroupSize, parameterNames(first), first.tiedNames(), models)));
  }

  /** What was read of a model-parallel rank. */
  public static ModelPart part(
      int mpRank,
      Optional<ReadFile> model,
      List<ReadFile> optimizers,
      int trained,
      OptionalInt frozen,
      SavedSharded saved) {
    return new ModelPart(
        mpRank,
        model,
        optimizers,
        new ShardedValues(),
        List.of(trained),
        frozen,
        Optional.of(saved));
  }

  /** Parameters that no file holds as the module has them. */
  public static ParameterSet begin(int mpRank, ShardedLayout layout) {
    ParameterSet set = ParameterSet.begin(mpRank, ParamId.NO_EXPERT, layout);
    set.weights().addAll(Collections.nCopies(layout.parameters().size(), null));
    return set;
  }

  /** The names in {@code module} that are of parameters, as far as the file lists these. */
  private static List<String> parameterNames(ModelStates model) {
    Set<String> listed = new HashSet<>(model.tiedNames());
    model.flatGroups().forEach(group -> group.forEach(p -> listed.add(p.name())));
    model.frozen().forEach(p -> listed.add(p.name()));
    boolean all = model.root().findPresent(ModelStates.FROZEN_SHAPES).isPresent();
    Set<String> buffers = model.bufferNames();
    return model.module().keySet().stream()
        .filter(name -> !buffers.contains(name) && (!all || listed.contains(name)))
        .toList();
  }

  /**
   * The frozen parameters whose fragments are pieces. Those that ZeRO-3 does not partition (LoRA's
   * base weights) are in the module in full, and whole on every rank (runtime/engine.py, {@code
   * _get_zero_frozen_param_attributes}).
   */
  public static List<Parameter> partitionedFrozen(ModelStates model) {
    Map<String, TensorNode> module = model.module();
    Map<String, PickledValue> fragments = model.frozenFragments();
    List<Parameter> partitioned = new ArrayList<>();
    for (Parameter parameter : model.frozen()) {
      PickledValue fragment = fragments.get(parameter.name());
      TensorNode weight = module.get(parameter.name());
      if (fragment == null) {
        throw model
            .root()
            .get(ModelStates.FROZEN_SHAPES)
            .refused(
                "%s has no piece in %s. The file is damaged."
                    .formatted(parameter.name(), ModelStates.FROZEN_FRAGMENTS));
      }
      boolean whole =
          weight != null
              && parameter.elements() > 0
              && weight.numel() == parameter.elements()
              && fragment.tensor().numel() == parameter.elements();
      if (!whole) {
        partitioned.add(new Parameter(parameter.name(), parameter.shape(), partitioned.size()));
      }
    }
    return partitioned;
  }

  /** A partition in a file, and so in every file that says the same. */
  private record Located(int bucket, String state, PickledValue tensor) {}

  /** Notes where the partitions of {@code rank} are. */
  private static void place(
      DeepSpeedReading reading, int rank, ReadFile file, List<Located> located, ParameterSet set) {
    for (Located partition : located) {
      set.partitions()
          .put(
              new Partition(rank, partition.bucket(), partition.state()),
              reading.address(
                  file.source(),
                  file.file(),
                  file.file().path() + ", " + partition.tensor().path(),
                  partition.tensor().tensor()));
    }
  }

  /** Checks the optimizer file of {@code rank} and notes where its partitions are. */
  public static void addPartitions(
      DeepSpeedReading reading, int rank, ReadFile file, ParameterSet set) {
    place(reading, rank, file, partitions(file, set), set);
  }

  /** Checks an optimizer file against the layout and finds its sub-groups. */
  private static List<Located> partitions(ReadFile file, ParameterSet set) {
    List<Located> located = new ArrayList<>();
    ShardedStates states = new ShardedStates(file.root());
    ShardedLayout layout = ShardedLayout.of(set.layout());
    PickledValue count = states.stateDict().get(OptimizerFile.PARTITION_COUNT);
    if (count.asLong() != layout.worldSize()) {
      throw count.refused(
          "expected %d, the dp_world_size of the model files, found %d. With mics_shard_size this is a checkpoint of MiCS, which is not supported; else the files do not belong together."
              .formatted(layout.worldSize(), count.asLong()));
    }
    if (states.flatGroups().items().size() != layout.buckets()) {
      throw states
          .flatGroups()
          .refused(
              "expected %d sub-groups as in param_shapes, found %d."
                  .formatted(layout.buckets(), states.flatGroups().items().size()));
    }
    List<PickledValue> tensors = new ArrayList<>();
    for (int b = 0; b < layout.buckets(); b++) {
      Map<String, DType> types = new LinkedHashMap<>();
      Map<String, PickledValue> partitions = states.partitions(layout, b);
      for (Map.Entry<String, PickledValue> partition : partitions.entrySet()) {
        PickledValue value = partition.getValue();
        types.put(partition.getKey(), value.tensor().dtype());
        tensors.add(value);
        located.add(new Located(b, partition.getKey(), value));
      }
      int group = layout.groupOf(b);
      while (set.states().size() < group) {
        set.states().add(Map.of());
      }
      if (set.states().size() == group) {
        set.states().add(types);
      } else if (!types.equals(set.states().get(group))) {
        throw new RefusedException(
            file.file().path(),
            "sub-group %d has the states %s, another of its param group has %s. The files are of different runs."
                .formatted(b, types, set.states().get(group)));
      }
    }
    OtherViews.requireNone(states.root(), tensors);
    StateTensors.requireOthersReplicated(states.stateDict(), tensors);
    return located;
  }

  /** Checks the fragments of a model file and finds them. */
  private static List<Located> fragments(ReadFile file, ModelStates first, ParameterSet set) {
    List<Located> located = new ArrayList<>();
    ShardedLayout layout = ShardedLayout.of(set.layout());
    Map<String, PickledValue> fragments = new ModelStates(file.root()).frozenFragments();
    Map<String, TensorNode> module = first.module();
    for (int p = 0; p < layout.parameters().size(); p++) {
      String name = layout.parameters().get(p).name();
      PickledValue fragment = fragments.get(name);
      if (fragment == null) {
        throw new RefusedException(
            file.file().path(),
            "has no piece of the frozen parameter %s, rank 0's file has one.".formatted(name));
      }
      TensorNode tensor = fragment.tensor();
      if (tensor.shape().length != 1
          || tensor.numel() != layout.bucketElements(p)
          || !tensor.isContiguous()) {
        throw fragment.refused(
            "expected the %d elements of this rank's piece, found a tensor of shape %s."
                .formatted(layout.bucketElements(p), Arrays.toString(tensor.shape())));
      }
      ShardedKinds.requireNotQuantized(fragment, module.get(name));
      if (set.states().size() == p) {
        set.states().add(Map.of(States.FROZEN, tensor.dtype()));
      } else if (set.states().get(p).get(States.FROZEN) != tensor.dtype()) {
        throw fragment.refused(
            "is of type %s, rank 0's of %s."
                .formatted(tensor.dtype(), set.states().get(p).get(States.FROZEN)));
      }
      located.add(new Located(p, States.FROZEN, fragment));
    }
    return located;
  }

  /**
   * Checks that what is not partitioned is the same in all optimizer files.
   *
   * @throws RefusedException if it is not
   */
  public static void requireReplicasAgree(
      DeepSpeedReading reading, List<ReadFile> optimizers, ShardedLayout layout)
      throws IOException {
    ReplicaComparison comparison =
        new ReplicaComparison(
            reading.store(),
            reading.sources(),
            file -> ShardedOptimizerRewrite.rewrite(file, layout, layout, List.of()));
    for (int rank = 0; rank < optimizers.size(); rank++) {
      ReadFile file = optimizers.get(rank);
      comparison.add(rank, file.source(), file.file()).ifPresent(reading::note);
    }
  }

  /** Takes note of the steps that the optimizer files, which agree, count. */
  public static void addSteps(DeepSpeedReading reading, List<ReadFile> optimizers)
      throws IOException {
    ReadFile first = optimizers.get(0);
    reading
        .steps()
        .addOptimizer(
            first.source(),
            first.file(),
            new ShardedStates(first.root()).optimizer(),
            optimizers.stream()
                .map(file -> reading.sources().get(file.source()).stat().name())
                .toList(),
            true);
  }
}
