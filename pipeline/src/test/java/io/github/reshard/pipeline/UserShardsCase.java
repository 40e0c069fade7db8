package io.github.reshard.pipeline;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
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

  ReshardReport reshard(Path input, int worldSize, String... more) {
    return reshard(input, output(), worldSize, more);
  }

  static ReshardReport reshard(Path input, Path output, int worldSize, String... more) {
    ReshardOptions options = Resharding.options(input, output, worldSize);
    for (String option : more) {
      String value = option.substring(option.indexOf('=') + 1);
      switch (option.substring(0, option.indexOf('='))) {
        case "shards" -> options.setShards(value);
        case "model" -> options.setModel(value);
        case "dsConfig" -> options.setDsConfig(value);
        case "paramGroups" -> options.setParamGroups(value);
        case "overwrite" -> options.setOverwrite(true);
        case "sanitize" -> options.setSanitize(true);
        default -> throw new IllegalArgumentException(option);
      }
    }
    return Resharding.run(options);
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
