package io.github.reshard.checkpoint.shards;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.ShardComparison;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Shards that a user saved: torch.save(optimizer.state_dict(), f"optimizer.{rank:02d}.pt"). */
class UserShardsGoldenTest extends UserShardsCase {
  @ParameterizedTest
  @CsvSource({"z1-fp32, 2", "z2-fp16-twogroups, 3", "z1-bf16-optimizer, 3", "z2-bf16, 2"})
  void eachShardIsWhatDeepSpeedReturnsThere(String name, int worldSize) {
    reshard(CASES.resolve(name).resolve("user"), worldSize);

    Path reference = CASES.resolve(name).resolve("reference-" + worldSize);
    assertThat(names(output())).containsAll(names(reference));
    for (int rank = 0; rank < worldSize; rank++) {
      assertThat(
              ShardComparison.firstDifference(
                  reference.resolve(shard(rank)), null, output().resolve(shard(rank))))
          .isEmpty();
    }
    assertThat(output().resolve(shard(worldSize))).doesNotExist();
  }

  @ParameterizedTest
  @ValueSource(ints = {2, 8})
  void eachShardIsTheStateInTheCheckpointOfThatManyRanks(int worldSize) {
    reshard(TWO_GROUPS.resolve("user"), worldSize, "model=pytorch_model.bin");

    for (int rank = 0; rank < worldSize; rank++) {
      Path reference =
          TWO_GROUPS.resolve(
              "reference-%d/global_step3/zero_pp_rank_%d_mp_rank_00_optim_states.pt"
                  .formatted(worldSize, rank));
      assertThat(
              ShardComparison.firstDifference(
                  reference, "optimizer_state_dict", output().resolve(shard(rank))))
          .isEmpty();
    }
  }

  @ParameterizedTest
  @CsvSource({"z2-fp16-twogroups, 3", "z1-bf16-optimizer, 3"})
  void sanitizedShardsHoldTheSameTensorsAndNoObjectOfDeepSpeed(String name, int worldSize)
      throws IOException {
    Path input = CASES.resolve(name).resolve("user");
    Path usual = directory.resolve("usual");
    reshard(input, usual, worldSize);
    reshard(input, worldSize, "sanitize=");

    for (int rank = 0; rank < worldSize; rank++) {
      TorchFile asSaved = torchFile(usual.resolve(shard(rank)));
      TorchFile sanitized = torchFile(output().resolve(shard(rank)));
      assertThat(text(asSaved.pickle())).contains("cdeepspeed.");
      assertThat(text(sanitized.pickle())).doesNotContain("cdeepspeed.").contains("numel");
      assertThat(storages(sanitized)).isEqualTo(storages(asSaved)).isNotEmpty();
    }
  }

  private static TorchFile torchFile(Path path) throws IOException {
    LocalSourceStore store = new LocalSourceStore();
    for (FileStat file : store.list(path.getParent().toString()).files()) {
      if (file.name().equals(path.getFileName().toString())) {
        try (RangedFile open = store.open(file)) {
          return TorchFile.read(open);
        }
      }
    }
    throw new AssertionError(path + " is not there");
  }

  private static String text(byte[] pickle) {
    return new String(pickle, StandardCharsets.ISO_8859_1);
  }

  /** The CRC of each storage. */
  private static Map<String, Integer> storages(TorchFile file) {
    Map<String, Integer> crcs = new TreeMap<>();
    file.entries().stream()
        .filter(entry -> entry.name().startsWith("data/"))
        .forEach(entry -> crcs.put(entry.name(), entry.crc32()));
    return crcs;
  }

  /** The files of save_checkpoint, taken for shards of a user, have the state in a wrapper. */
  @ParameterizedTest
  @CsvSource({
    "z1-bf16, 3",
    "z1-sgd, 4",
    "z2-adagrad, 2",
    "z2-elastic, 3",
    "z2-freeze-tie, 4",
    "z2-bf16-clip, 4",
    "z2-fp16-dynamic, 3"
  })
  void wrappedShardsGiveWhatTheWholeCheckpointGives(String name, int worldSize) throws IOException {
    GoldenCase golden = GoldenCase.of(name);
    Path tag = golden.source().resolve(golden.tag());
    String pattern =
        names(tag).stream()
            .filter(file -> file.endsWith("_optim_states.pt"))
            .findFirst()
            .orElseThrow()
            .replaceFirst("rank_0_", "rank_*_");
    Path input = copied(tag);
    reshard(input, worldSize, "shards=" + pattern, "model=mp_rank_00_model_states.pt");

    Path expected = directory.resolve("whole").resolve(golden.tag());
    WithoutBeam.reshard(golden.source(), directory.resolve("whole"), worldSize);
    for (int rank = 0; rank < worldSize; rank++) {
      String file = pattern.replace("*", Integer.toString(rank));
      assertThat(
              ShardComparison.firstDifference(expected.resolve(file), null, output().resolve(file)))
          .isEmpty();
    }
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "z1-fp32",
        "z2-fp16-twogroups",
        "z1-bf16-optimizer",
        "z2-bf16",
        "z2-roundrobin-fp16",
        "z2-elastic",
        "z1-sgd-plain",
        "z2-adagrad",
        "moe-z2-fp32"
      })
  void theSameNumberOfRanksGivesTheSameFiles(String name) throws IOException {
    Path user = CASES.resolve(name).resolve("user");
    int ranks = (int) names(user).stream().filter(file -> file.startsWith("optimizer")).count();
    reshard(user, ranks);

    for (String file : names(user)) {
      assertThat(Files.mismatch(user.resolve(file), output().resolve(file))).isEqualTo(-1);
    }
  }

  @ParameterizedTest
  @CsvSource({
    "z2-elastic, 6",
    "z1-sgd-plain, 5",
    "z2-adagrad, 1",
    "moe-z2-fp32, 2",
    "z2-roundrobin-fp16, 2"
  })
  void thereAndBackGivesTheSameShards(String name, int worldSize) {
    Path user = CASES.resolve(name).resolve("user");
    int ranks = (int) names(user).stream().filter(file -> file.startsWith("optimizer")).count();
    String[] model =
        name.startsWith("moe") ? new String[0] : new String[] {"model=pytorch_model.bin"};
    Path there = directory.resolve("there");
    reshard(user, there, worldSize, model);
    reshard(there, ranks, model);

    for (int rank = 0; rank < ranks; rank++) {
      assertThat(
              ShardComparison.firstDifference(
                  user.resolve(shard(rank)), null, output().resolve(shard(rank))))
          .isEmpty();
    }
  }

  @Test
  void roundRobinIsFoundByTheModelAndSaid() {
    Path user = CASES.resolve("z2-roundrobin-fp16/user");

    assertThat(reshard(user, 2, "model=pytorch_model.bin").notes())
        .anyMatch(note -> note.contains("is that of round_robin_gradients: in that order, and not"))
        .anyMatch(note -> note.contains("ds_to_universal.py would scramble"));
    Path plain = directory.resolve("plain");
    assertThat(reshard(user, plain, 2).notes())
        .anyMatch(note -> note.contains("taken on trust"))
        .anyMatch(note -> note.contains("--model=pytorch_model.bin"));
    assertThat(
            ShardComparison.firstDifference(
                plain.resolve(shard(0)), null, output().resolve(shard(0))))
        .hasValueSatisfying(difference -> assertThat(difference).contains("byte"));
  }

  @Test
  void theConfigurationMayStandForTheModel() throws IOException {
    Path config = directory.resolve("ds_config.json");
    Files.writeString(config, "{\"zero_optimization\": {\"round_robin_gradients\": true}}");
    Path user = CASES.resolve("z2-roundrobin-fp16/user");
    Path proven = directory.resolve("proven");
    reshard(user, proven, 2, "model=pytorch_model.bin");
    reshard(user, 2, "dsConfig=" + config);

    for (int rank = 0; rank < 2; rank++) {
      assertThat(Files.mismatch(proven.resolve(shard(rank)), output().resolve(shard(rank))))
          .isEqualTo(-1);
    }
  }
}
