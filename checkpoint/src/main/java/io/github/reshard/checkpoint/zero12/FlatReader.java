package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ExpertsPresent;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.RanksPresent;
import io.github.reshard.checkpoint.deepspeed.ReplicaComparison;
import io.github.reshard.checkpoint.deepspeed.SavedKinds;
import io.github.reshard.checkpoint.format.CheckpointReader;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import java.util.SortedMap;

/** Reads a checkpoint of ZeRO-1 or 2, mixtures of experts among them. */
public final class FlatReader implements CheckpointReader {
  private final SourceStore store;
  private final CheckpointFiles files;
  private final OptionalInt experts;

  public FlatReader(SourceStore store, CheckpointFiles files) {
    this(store, files, OptionalInt.empty());
  }

  /**
   * @param experts the expert-parallel size that it is read for, if that is not to stay as saved
   */
  public FlatReader(SourceStore store, CheckpointFiles files, OptionalInt experts) {
    this.store = store;
    this.files = files;
    this.experts = experts;
  }

  @Override
  public TrainingState read(int targetWorldSize) throws IOException {
    DeepSpeedReading reading = new DeepSpeedReading(store, files, targetWorldSize, experts);
    Map<String, ReadFile> layers = new LinkedHashMap<>();
    Map<String, ReadFile> experts = new LinkedHashMap<>();
    carryWhole(reading, files.layers(), layers);
    carryWhole(reading, files.experts(), experts);
    for (Map.Entry<Integer, FileStat> model : files.models().entrySet()) {
      readPart(reading, model.getKey(), model.getValue(), layers, experts);
    }
    noteUntrained(reading, layers);
    reading.finish();
    return reading.state();
  }

  /** A layer whose tensors nothing trains may be of another run: its name alone says it is not. */
  private static void noteUntrained(DeepSpeedReading reading, Map<String, ReadFile> layers) {
    Set<Integer> trained = new HashSet<>();
    for (ParameterSet set : reading.parameters()) {
      for (ModuleWeight weight : set.weights()) {
        if (weight != null && weight.source() != null) {
          trained.add(weight.source().file());
        }
      }
    }
    List<String> others =
        layers.entrySet().stream()
            .filter(layer -> !trained.contains(layer.getValue().source()))
            .filter(layer -> !layer.getValue().root().children().isEmpty())
            .map(Map.Entry::getKey)
            .toList();
    if (!others.isEmpty()) {
      reading.note(
          "no optimizer trains anything in "
              + String.join(", ", others)
              + ": carried as they are; that they are of this save is proven by nothing but their"
              + " names");
    }
  }

  private static void carryWhole(
      DeepSpeedReading reading, List<FileStat> stats, Map<String, ReadFile> into)
      throws IOException {
    reading.readEach(
        stats,
        (stat, file) -> {
          if (stat.name().startsWith("expp_rank_")
              && !StorageKeys.tensors(file.path(), file.parse().root()).isEmpty()) {
            throw new RefusedException(
                stat.path(),
                "holds the optimizer of a run without ZeRO, which nothing partitions. Save the"
                    + " checkpoint from a run at ZeRO-1 or 2.");
          }
          ReadFile read = new ReadFile(reading.addSource(stat, file), file);
          into.put(stat.name(), read);
          reading.carry(stat.name(), read);
        });
  }

  private static void readPart(
      DeepSpeedReading reading,
      int mpRank,
      FileStat modelStat,
      Map<String, ReadFile> layers,
      Map<String, ReadFile> experts)
      throws IOException {
    TorchFile opened = reading.read(modelStat);
    ReadFile modelFile = new ReadFile(reading.addSource(modelStat, opened), opened);
    ModelStates model = new ModelStates(modelFile.root());
    int ranks = model.dpWorldSize();
    reading.setDataParallelRanks(modelStat, ranks);
    reading.steps().addModel(model, 1);
    reading.setParallelism(model);
    model
        .root()
        .findPresent("num_experts")
        .filter(listed -> !listed.isList())
        .ifPresent(
            listed -> {
              throw listed.refused(
                  "expected a list with one number for each layer, found %s. That is the old format, whose expert files have no layer in their names: load it once with a DeepSpeed that writes the new one, and save it again."
                      .formatted(listed.describe()));
            });
    List<Shard> shards = readShards(reading, mpRank, modelStat, ranks);
    OptimizerStates states = shards.get(0).states();
    SavedKinds.requireSupported(reading, model, states.stateDict());
    DsConfig.ifStored(model.root(), states.root())
        .ifPresent(config -> config.requireSupported(states.stage()));
    ParamGroups recorded =
        model.hasShapes()
            ? ParamGroups.of(model, shards, ranks, reading::targetWorldSize)
            : ExpertGroups.of(
                reading, ExpertFiles.of(reading, experts, mpRank, model), modelFile, shards);
    ParamGroups groups = FlatPaddings.of(model, recorded, shards, reading::targetWorldSize);
    FlatSets sets = addSets(reading, mpRank, groups, ranks);
    readShards(reading, shards, sets, ranks);
    MuonMomentum.add(
        reading,
        model.root(),
        shards,
        rank -> sets.groups(reading.parameters(), rank, ranks),
        Optional.empty());
    Map<String, TensorNode> module = model.module();
    for (FileGroup group : sets.groups(reading.parameters(), 0, ranks)) {
      if (group.set().expertRank() == ParamId.NO_EXPERT) {
        addModuleWeights(reading, modelFile, module, group);
      }
    }
    Map<String, TorchFile> ofExperts = new LinkedHashMap<>();
    experts.forEach((name, file) -> ofExperts.put(name, file.file()));
    ExpertsPresent.require(model, mpRank, ofExperts);
    new WeightsBeside(reading, mpRank, layers, experts).add(model, sets);
    reading.addPart(part(mpRank, Optional.of(modelFile), shards, sets));
  }

  /** What was read of a model-parallel rank. */
  public static ModelPart part(
      int mpRank, Optional<ReadFile> modelFile, List<Shard> shards, FlatSets sets) {
    return new ModelPart(
        mpRank,
        modelFile,
        shards.stream().map(shard -> new ReadFile(shard.source(), shard.file())).toList(),
        new FlatValues(),
        sets.all(),
        OptionalInt.empty(),
        Optional.of(new SavedFlat(shards, sets)));
  }

  /** Registers the sets of parameters of an mp rank; their partitions are yet to be added. */
  public static FlatSets addSets(
      DeepSpeedReading reading, int mpRank, ParamGroups groups, int ranks) {
    Map<Integer, List<Integer>> indices = new HashMap<>();
    for (int size : groups.expertParallelSizes()) {
      boolean dense = size == ParamGroups.DENSE;
      if (!dense && ranks % size != 0) {
        throw ParamGroups.notDivided(reading.where(), size, ranks, reading.targetWorldSize());
      }
      List<Integer> ofSize = new ArrayList<>();
      for (int expertRank = 0; expertRank < Math.max(1, size); expertRank++) {
        ofSize.add(
            reading.addParameters(
                ParameterSet.begin(
                    mpRank,
                    dense ? ParamId.NO_EXPERT : expertRank,
                    groups.layout(ranks, size, expertRank))));
      }
      indices.put(size, ofSize);
    }
    return new FlatSets(groups, indices);
  }

  private static List<Shard> readShards(
      DeepSpeedReading reading, int mpRank, FileStat modelStat, int ranks) throws IOException {
    SortedMap<Integer, FileStat> stats =
        RanksPresent.of(
            reading,
            modelStat.name(),
            mpRank,
            "optimizer files",
            reading.files().optimizers().get(mpRank),
            ranks);
    List<Shard> shards = new ArrayList<>();
    reading.readEach(
        stats.values(),
        (stat, file) -> {
          OptimizerStates states =
              new OptimizerStates(PickledValue.root(file.path(), file.parse().root()));
          if (states.stage() != 1 && states.stage() != 2) {
            throw new RefusedException(
                stat.path(),
                "zero_stage is %d beside model files of ZeRO-1 or 2.".formatted(states.stage()));
          }
          shards.add(new Shard(reading.addSource(stat, file), file, states));
        });
    return shards;
  }

  /**
   * Notes where the partitions of all shards are, and checks that what is not partitioned is the
   * same in all of them, the step among it.
   *
   * @throws RefusedException if the shards are not those of the ranks of one run at one step
   */
  public static void readShards(
      DeepSpeedReading reading, List<Shard> shards, FlatSets sets, int ranks) throws IOException {
    for (int rank = 0; rank < ranks; rank++) {
      FlatShards.addPartitions(
          reading, shards.get(rank), rank, sets.groups(reading.parameters(), rank, ranks));
    }
    List<FlatOptimizerRewrite.Group> groups =
        sets.groups(reading.parameters(), 0, ranks).stream()
            .map(FlatOptimizerRewrite.Group::ofSource)
            .toList();
    ReplicaComparison comparison =
        new ReplicaComparison(
            reading.store(),
            reading.sources(),
            file -> FlatOptimizerRewrite.comparable(file, groups));
    for (int rank = 0; rank < shards.size(); rank++) {
      Shard shard = shards.get(rank);
      comparison.add(rank, shard.source(), shard.file()).ifPresent(reading::note);
    }
    Shard first = shards.get(0);
    reading
        .steps()
        .addOptimizer(
            first.source(),
            first.file(),
            first.states().baseState(),
            shards.stream()
                .map(shard -> reading.sources().get(shard.source()).stat().name())
                .toList(),
            false);
  }

  /** Adds what the model file holds of the parameters of a group, in the group's order. */
  private static void addModuleWeights(
      DeepSpeedReading reading,
      ReadFile modelFile,
      Map<String, TensorNode> module,
      FileGroup group) {
    ParameterSet set = group.set();
    for (Parameter parameter : set.parameters()) {
      if (parameter.group() != group.group()) {
        continue;
      }
      TensorNode weight = module.get(parameter.name());
      set.weights()
          .add(
              weight == null
                  ? null
                  : new ModuleWeight(
                      weight.dtype(),
                      WeightsBeside.address(
                          reading,
                          modelFile,
                          modelFile.file().path() + ", module." + parameter.name(),
                          parameter,
                          weight),
                      null));
    }
  }
}
