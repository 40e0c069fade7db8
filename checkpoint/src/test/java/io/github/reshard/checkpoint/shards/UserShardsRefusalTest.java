package io.github.reshard.checkpoint.shards;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;

/** Shards that are not of one run or of all its ranks. */
class UserShardsRefusalTest extends UserShardsCase {
  @Test
  void halfOfTheShardsAreRefusedByName() throws IOException {
    Path input = copied(TWO_GROUPS.resolve("user"));
    Files.delete(input.resolve(shard(2)));
    Files.delete(input.resolve(shard(3)));

    assertThatThrownBy(() -> reshard(input, 2))
        .isInstanceOf(RefusedException.class)
        .hasMessage(
            input
                + "/optimizer.*.pt: 4 ranks saved these shards (partition_count is 4), and 2 are"
                + " here. Missing: optimizer.02.pt, optimizer.03.pt. Every shard holds a part that"
                + " is in no other, so all 4 are needed, however many ranks go on with them.");
    assertThat(output()).doesNotExist();
  }

  @Test
  void aShardOfAnotherRankIsRefusedByName() throws IOException {
    Path input = copied(TWO_GROUPS.resolve("user"));
    Files.copy(input.resolve(shard(0)), input.resolve(shard(7)));

    assertThatThrownBy(() -> reshard(input, 2))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("Not of these ranks: optimizer.07.pt");
  }

  @Test
  void aCopyUnderTheNameOfAnotherRankIsRefused() throws IOException {
    Path input = copied(TWO_GROUPS.resolve("user"));
    Files.delete(input.resolve(shard(2)));
    Files.copy(input.resolve(shard(1)), input.resolve(shard(2)));

    assertThatThrownBy(() -> reshard(input, 2))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("optimizer.02.pt");
  }

  @Test
  void shardsOfTwoRunsAreRefused() throws IOException {
    Path input = copied(CASES.resolve("z1-fp32/user"));
    Files.delete(input.resolve(shard(1)));
    Files.copy(CASES.resolve("z2-adagrad/user").resolve(shard(1)), input.resolve(shard(1)));

    assertThatThrownBy(() -> reshard(input, 2))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("optimizer.01.pt")
        .hasMessageContaining("different runs");
  }

  @Test
  void aModelOfAnotherRunIsRefused() throws IOException {
    Path input = copied(CASES.resolve("z1-fp32/user"));
    Files.delete(input.resolve("pytorch_model.bin"));
    Files.copy(
        CASES.resolve("z2-adagrad/user/pytorch_model.bin"), input.resolve("pytorch_model.bin"));

    assertThatThrownBy(() -> reshard(input, 2, "model=pytorch_model.bin"))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("pytorch_model.bin: the masters in the shards")
        .hasMessageContaining("neither in the plain order nor in that of round_robin_gradients");
  }
}
