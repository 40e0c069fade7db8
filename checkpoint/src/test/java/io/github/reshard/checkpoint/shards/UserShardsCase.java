package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Stream;
import org.junit.jupiter.api.io.TempDir;

/** Shards that a user saved, and what becomes of them. */
abstract class UserShardsCase {
  static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));
  static final Path CASES = TESTDATA.resolve("usershards");
  static final Path TWO_GROUPS = TESTDATA.resolve("corpus/z2-fp32-twogroups");

  @TempDir Path directory;

  Path output() {
    return directory.resolve("output");
  }

  ReshardPlan reshard(Path input, int worldSize, String... more) {
    return reshard(input, output(), worldSize, more);
  }

  /**
   * @param more what a user adds, as {@code option=value}
   */
  static ReshardPlan reshard(Path input, Path output, int worldSize, String... more) {
    Map<String, String> said = new HashMap<>();
    for (String option : more) {
      int sign = option.indexOf('=');
      said.put(option.substring(0, sign), option.substring(sign + 1));
    }
    Optional<String> shards = Optional.ofNullable(said.remove("shards"));
    UserHints hints =
        new UserHints(
            Optional.ofNullable(said.remove("model")),
            Optional.ofNullable(said.remove("dsConfig")),
            Optional.ofNullable(said.remove("paramGroups")),
            false,
            said.remove("sanitize") != null);
    if (!said.isEmpty()) {
      throw new IllegalArgumentException(said.toString());
    }
    return WithoutBeam.reshardShards(input, output, worldSize, shards, hints);
  }

  static String shard(int rank) {
    return "optimizer.%02d.pt".formatted(rank);
  }

  static List<String> names(Path directory) {
    try (Stream<Path> files = Files.list(directory)) {
      return files.map(file -> file.getFileName().toString()).sorted().toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  Path copied(Path from) throws IOException {
    Path copy = Files.createDirectories(directory.resolve("input"));
    for (String name : names(from)) {
      Files.copy(from.resolve(name), copy.resolve(name));
    }
    return copy;
  }
}
