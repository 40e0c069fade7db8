package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.zero12.Shard;
import io.github.reshard.checkpoint.zero3.SavedSharded;
import io.github.reshard.checkpoint.zero3.ShardedLayout;
import io.github.reshard.checkpoint.zero3.ShardedReader;
import io.github.reshard.checkpoint.zero3.ShardedStates;
import io.github.reshard.checkpoint.zero3.SubGroups;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import java.util.SortedMap;
import java.util.stream.Collectors;

/**
 * Reads shards of ZeRO-3 that a user saved.
 *
 * @param model a state dict of the model, or null
 */
record ShardedUserShards(
    DeepSpeedReading reading,
    UserShards user,
    UserHints hints,
    UserConfig config,
    ModelWeights model) {
  /** Whether a shard that says {@code root} is of ZeRO-3. */
  static boolean are(PickledValue root) {
    return root.find(OptimizerFile.FLAT_GROUPS).isPresent()
        || root.find("optimizer_state_dict")
            .filter(PickledValue::isDict)
            .flatMap(inner -> inner.find(OptimizerFile.FLAT_GROUPS))
            .isPresent();
  }

  void read(SortedMap<Integer, Shard> byRank) throws IOException {
    Shard any = byRank.get(byRank.firstKey());
    for (Shard shard : byRank.values()) {
      if (!are(shard.states().root())) {
        throw new RefusedException(
            shard.file().path(),
            "is no shard of ZeRO-3, %s is. They are of different runs."
                .formatted(any.file().path()));
      }
    }
    PickledValue count =
        new ShardedStates(any.states().root()).stateDict().get(OptimizerFile.PARTITION_COUNT);
    int ranks = count.asInt();
    ShardRanks.requireRanks(user, ranks, "partition_count");
    reading.setDataParallelRanks(user.shards().get(0), ranks);
    reading.prove(ShardArchives.evidence(user, byRank));
    if (model == null) {
      throw new RefusedException(
          user.directory() + "/" + user.pattern(),
          "these are shards of ZeRO-3, which hold neither the names nor the shapes of the"
              + " parameters. Say --model=FILE, the model's state dict at the same step (torch or"
              + " safetensors).");
    }
    new ShardedStates(any.states().root()).requireNoMuon(Optional.empty());
    List<Shard> shards = List.copyOf(byRank.values());
    ShardedReading sharded = new ShardedReading(reading, shards, model);
    SubGroups subGroups =
        config.paramGroups().isPresent()
            ? sharded.listed(hints.paramGroups().orElseThrow(), config.paramGroups().get())
            : sharded.found();
    long size = subGroupSize(subGroups, ranks);
    ShardedLayout layout = new ShardedLayout(ranks, subGroups.parameters(), size);
    ParameterSet set = ShardedReader.begin(0, layout);
    List<ReadFile> files =
        shards.stream().map(shard -> new ReadFile(shard.source(), shard.file())).toList();
    for (int rank = 0; rank < ranks; rank++) {
      ShardedReader.addPartitions(reading, rank, files.get(rank), set);
    }
    ShardedReader.requireReplicasAgree(reading, files, layout);
    ShardedReader.addSteps(reading, files);
    addWeights(set);
    int groups = new ShardedStates(shards.get(0).states().root()).subGroups().size();
    reading.note(
        "recognised %d shards '%s', each the optimizer.state_dict() of a rank: ZeRO-3, param groups: %d"
            .formatted(ranks, user.pattern(), groups));
    Set<String> trained =
        subGroups.parameters().stream().map(Parameter::name).collect(Collectors.toSet());
    reading.addPart(
        ShardedReader.part(
            0,
            Optional.empty(),
            files,
            reading.addParameters(set),
            OptionalInt.empty(),
            new SavedSharded(
                layout,
                size,
                model.weights().keySet().stream().filter(trained::contains).toList(),
                Set.of(),
                List.of())));
  }

  /** The values are what tells which parameter is where, so they have to agree. */
  private void addWeights(ParameterSet set) throws IOException {
    List<String> without = new ArrayList<>();
    for (int p = 0; p < set.parameters().size(); p++) {
      Parameter parameter = set.parameters().get(p);
      ModuleWeight weight =
          model.compared(parameter.name(), parameter, set.statesOf(p).get(States.MASTER));
      set.weights().set(p, weight);
      if (weight == null) {
        without.add(parameter.name());
      }
    }
    Optional<String> mismatch = new OrderProof(reading).firstMismatch(set, set.layout(), false);
    if (mismatch.isPresent() && !hints.trustMasters()) {
      throw FlatUserShards.notTheWeights(model, Optional.empty(), mismatch, false);
    }
    if (!without.isEmpty()) {
      reading.note(
          "%d parameters have no comparable weight in %s, such as %s; that they are where --paramGroups says was taken on trust"
              .formatted(without.size(), model.path(), without.get(0)));
    }
  }

  private long subGroupSize(SubGroups subGroups, int ranks) throws IOException {
    Optional<DsConfig> given = config.dsConfig();
    if (given.isEmpty()) {
      return subGroups.inferred(
          ranks,
          reading::targetWorldSize,
          reading::note,
          "the shards do not tell the DeepSpeed configuration",
          "Say it with --dsConfig=FILE.");
    }
    long size = given.get().subGroupSize();
    if (!subGroups.agree(new ShardedLayout(ranks, subGroups.parameters(), size))) {
      throw new RefusedException(
          hints.dsConfig().get(),
          "sub_group_size %d does not make the sub-groups of these shards. It is the configuration of another run."
              .formatted(size));
    }
    return size;
  }
}
