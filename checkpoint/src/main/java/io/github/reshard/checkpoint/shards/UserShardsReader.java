package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.deepspeed.CopiedShards;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.format.CheckpointReader;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.zero12.OptimizerStates;
import io.github.reshard.checkpoint.zero12.Shard;
import java.io.IOException;
import java.util.Iterator;
import java.util.Map;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;

/** Reads shards that a user saved, with what the user adds to them. */
public final class UserShardsReader implements CheckpointReader {
  private final SourceStore store;
  private final UserShards user;
  private final UserHints hints;

  public UserShardsReader(SourceStore store, UserShards user, UserHints hints) {
    this.store = store;
    this.user = user;
    this.hints = hints;
  }

  @Override
  public TrainingState read(int targetWorldSize) throws IOException {
    DeepSpeedReading reading = new DeepSpeedReading(store, user.files(), targetWorldSize);
    SortedMap<Integer, Shard> shards = readShards(reading);
    OptimizerStates first = shards.get(shards.firstKey()).states();
    UserConfig config = UserConfig.read(store, user, hints);
    config.dsConfig().ifPresent(given -> given.requireSupported(first.stage()));
    Optional<ModelWeights> model = Optional.empty();
    if (hints.model().isPresent()) {
      model = Optional.of(ModelWeights.read(reading, user.directory(), hints.model().get()));
    }
    if (ShardedUserShards.are(first.root())) {
      new ShardedUserShards(reading, user, hints, config, model.orElse(null)).read(shards);
    } else {
      new FlatUserShards(reading, user, hints, config, model.orElse(null)).read(shards);
    }
    new CopiedShards(reading).refuse(false).ifPresent(reading::prove);
    reading.steps().evidence().forEach(reading::prove);
    Map<String, Integer> known = model.map(ModelWeights::sources).orElse(Map.of());
    for (FileStat file : user.beside()) {
      Integer source = known.get(file.path());
      reading.carry(file.name(), false, source == null ? reading.addSource(file) : source);
    }
    return reading.state();
  }

  private SortedMap<Integer, Shard> readShards(DeepSpeedReading reading) throws IOException {
    SortedMap<Integer, Shard> shards = new TreeMap<>();
    Iterator<Integer> ranks = user.shards().keySet().iterator();
    reading.readEach(
        user.shards().values(),
        (stat, file) -> {
          PickledValue root = PickledValue.root(file.path(), file.parse().root());
          requireKnownKind(root);
          shards.put(
              ranks.next(),
              new Shard(reading.addSource(stat, file), file, new OptimizerStates(root)));
        });
    return shards;
  }

  private static void requireKnownKind(PickledValue root) {
    if (!root.isDict()) {
      throw root.refused(
          "expected what optimizer.state_dict() returns, found " + root.describe() + ".");
    }
    if (ShardedUserShards.are(root)) {
      return;
    }
    OptimizerStates states = new OptimizerStates(root);
    if (states.stateDict().find("single_partition_of_fp32_groups").isEmpty()) {
      throw root.refused(
          "expected the state_dict() of a ZeRO optimizer of DeepSpeed, which has the key 'single_partition_of_fp32_groups'; found %s. A state dict of another optimizer is the same on all ranks and needs no resharding."
              .formatted(root.children().stream().map(PickledValue.Entry::key).limit(12).toList()));
    }
    if (states.stage() != 1 && states.stage() != 2) {
      throw root.refused("zero_stage is %d, expected 1 or 2.".formatted(states.stage()));
    }
  }
}
