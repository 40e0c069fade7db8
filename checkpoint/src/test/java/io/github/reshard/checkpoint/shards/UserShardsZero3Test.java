package io.github.reshard.checkpoint.shards;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.testing.TorchContent;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;

/** Shards of ZeRO-3, which hold neither names nor shapes. */
class UserShardsZero3Test extends UserShardsCase {
  private Path config(long subGroupSize) throws IOException {
    Path config = directory.resolve("ds_config.json");
    Files.writeString(
        config, "{\"zero_optimization\": {\"sub_group_size\": %d}}".formatted(subGroupSize));
    return config;
  }

  /**
   * The reference has the learning rate of group 0 in group 1 and one step object for all, as a
   * Universal Checkpoint leaves them under ZeRO-3; its tensors are right.
   */
  @Test
  void subGroupsOfZero3MoveWithTheNumberOfRanks() throws IOException {
    Path reference = CASES.resolve("z3-bf16-subgroups/reference-3");
    reshard(
        CASES.resolve("z3-bf16-subgroups/user"),
        3,
        "model=pytorch_model.bin",
        "dsConfig=" + config(40));

    for (int rank = 0; rank < 3; rank++) {
      TorchContent want = TorchContent.read(reference.resolve(shard(rank)));
      TorchContent have = TorchContent.read(output().resolve(shard(rank)));
      assertThat(have.tensors()).containsOnlyKeys(want.tensors().keySet());
      want.tensors()
          .forEach(
              (path, tensor) ->
                  assertThat(have.tensor(have.tensors().get(path)))
                      .as(path)
                      .isEqualTo(want.tensor(tensor)));
      assertThat(
              PyEquality.firstDifference(
                  want.at("optimizer_state_dict", "param_groups", 0, "params"),
                  have.at("optimizer_state_dict", "param_groups", 0, "params")))
          .isEmpty();
      assertThat(have.tensors()).hasSize(12);
    }
  }

  @Test
  void groupsOfZero3MayBeListed() throws IOException {
    Path groups = directory.resolve("groups.json");
    Files.writeString(
        groups,
        """
        [["emb.weight", "blocks.0.fc.weight", "blocks.0.out.weight", "blocks.1.fc.weight",
          "blocks.1.out.weight", "head.weight"],
         ["blocks.0.ln.weight", "blocks.0.ln.bias", "blocks.0.fc.bias", "blocks.1.ln.weight",
          "blocks.1.ln.bias", "blocks.1.fc.bias"]]
        """);
    Path user = CASES.resolve("z3-bf16-subgroups/user");
    String[] hints = {"model=pytorch_model.bin", "dsConfig=" + config(40)};
    Path found = directory.resolve("found");
    reshard(user, found, 3, hints);
    reshard(user, 3, hints[0], hints[1], "paramGroups=" + groups);
    for (int rank = 0; rank < 3; rank++) {
      assertThat(Files.mismatch(found.resolve(shard(rank)), output().resolve(shard(rank))))
          .isEqualTo(-1);
    }

    Files.writeString(groups, Files.readString(groups).replace("\"head.weight\"", "\"scale\""));
    assertThatThrownBy(() -> reshard(user, 3, hints[0], hints[1], "paramGroups=" + groups))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("sub-group 1 has 48 elements a rank");
  }

  @Test
  void whatZero3DoesNotSayIsAskedForWithTheReason() throws IOException {
    Path user = CASES.resolve("z3-bf16-subgroups/user");

    assertThatThrownBy(() -> reshard(user, 3))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("neither the names nor the shapes")
        .hasMessageContaining("--model=FILE");
    assertThatThrownBy(() -> reshard(user, 3, "model=pytorch_model.bin"))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("sub_group_size may be anything from 34 to 48")
        .hasMessageContaining("--dsConfig=FILE");
    Path wrong = config(41);
    assertThatThrownBy(() -> reshard(user, 3, "model=pytorch_model.bin", "dsConfig=" + config(20)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(wrong.toString());
    Path other = CASES.resolve("z3-fp32/user/pytorch_model.bin");
    assertThatThrownBy(() -> reshard(user, 3, "model=" + other))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("no weight of " + other)
        .hasMessageContaining("at element 0 of sub-group 0");
  }
}
