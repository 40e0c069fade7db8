package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.NamedFile;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.json.JsonAsPython;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * What the files say that a user names beside shards.
 *
 * @param dsConfig the DeepSpeed configuration of the run, if it is given
 * @param paramGroups the names of each param group, if they are given
 */
record UserConfig(Optional<DsConfig> dsConfig, Optional<List<List<String>>> paramGroups) {
  private static final long MOST_BYTES = 16L << 20;

  static UserConfig read(SourceStore store, UserShards user, UserHints hints) throws IOException {
    return new UserConfig(
        config(store, user, hints),
        hints.paramGroups().isPresent()
            ? Optional.of(listedGroups(store, user, hints))
            : Optional.empty());
  }

  private static List<List<String>> listedGroups(
      SourceStore store, UserShards user, UserHints hints) throws IOException {
    FileStat stat =
        NamedFile.find(store, user.directory(), hints.paramGroups().get(), "--paramGroups");
    if (NamedFile.json(store, stat, MOST_BYTES) instanceof List<?> groups) {
      List<List<String>> names = new ArrayList<>();
      for (Object group : groups) {
        if (!(group instanceof List<?> list) || !list.stream().allMatch(String.class::isInstance)) {
          break;
        }
        names.add(list.stream().map(String.class::cast).toList());
      }
      if (names.size() == groups.size()) {
        return names;
      }
    }
    throw new RefusedException(
        stat.path(), "expected the names of each param group: [[\"name\", ...], ...].");
  }

  private static Optional<DsConfig> config(SourceStore store, UserShards user, UserHints hints)
      throws IOException {
    if (hints.dsConfig().isEmpty()) {
      return Optional.empty();
    }
    FileStat stat = NamedFile.find(store, user.directory(), hints.dsConfig().get(), "--dsConfig");
    if (!(NamedFile.json(store, stat, MOST_BYTES) instanceof Map<?, ?> config)) {
      throw new RefusedException(stat.path(), "expected a DeepSpeed configuration, a JSON object.");
    }
    return Optional.of(new DsConfig(PickledValue.root(stat.path(), JsonAsPython.of(config))));
  }
}
