package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.TorchContent;
import io.github.reshard.testing.WithoutBeam;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Muon's momentum, whole on every rank that touches a parameter, in a checkpoint of ZeRO-2 at 2
 * ranks that share {@code head.weight}.
 */
class MuonTest {
  private static final Path SOURCE =
      Path.of(System.getProperty("reshard.testdata"), "field", "muon-z2", "source");
  private static final String TAG = "global_step3";

  /** Elements of the momentum of rank 1; its first parameter is the shared one. */
  private static final int MOMENTUM = 1521;

  @TempDir Path scratch;
  private Path input;
  private Path output;

  @BeforeEach
  void copy() {
    input = Scratch.copyOf(SOURCE, scratch.resolve("input"));
    output = scratch.resolve("output");
  }

  private static Path shard(Path checkpoint, int rank) {
    return checkpoint.resolve(TAG).resolve("zero_pp_rank_" + rank + "_mp_rank_00_optim_states.pt");
  }

  private static PyEntries at(PyObject root, String... keys) {
    PyEntries entries = TorchContent.entries(root);
    for (String key : keys) {
      entries = TorchContent.entries(entries.get(key));
    }
    return entries;
  }

  private static PyEntries state(PyObject root, long group) {
    return TorchContent.entries(
        at(root, "optimizer_state_dict", "base_optimizer_state", "state").get(group));
  }

  private static TensorNode momentum(PyObject root) {
    return TensorNode.of(state(root, 0).get("momentum_buffer")).orElseThrow();
  }

  /** Changes a byte of rank 1's momentum, and the checksum with it. */
  private static void change(Path file, int element) {
    Scratch.rewrite(
        file,
        root -> {},
        (key, bytes) -> {
          if (bytes.length == 4 * MOMENTUM) {
            bytes[4 * element] ^= 1;
          }
        });
  }

  private static String refusal(Path from, Path to, int ranks, int stage) {
    return catchThrowableOfType(
            RefusedException.class, () -> WithoutBeam.reshard(from, to, ranks, stage))
        .getMessage();
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 4, 5, 6, 7, 8})
  void thereAndBackIsTheSource(int ranks) {
    Path back = scratch.resolve("back");
    WithoutBeam.reshard(input, output, ranks);
    WithoutBeam.reshard(output, back, 2);

    assertThat(CheckpointComparison.with(SOURCE).firstDifference(back)).isEmpty();
    assertThat(Reassembly.of(output, TAG).tensors())
        .usingRecursiveComparison()
        .isEqualTo(Reassembly.of(SOURCE, TAG).tensors());
  }

  @Test
  void ranksThatDisagreeOnWhatTheyShareAreNamed() {
    change(shard(input, 1), 480);

    assertThat(refusal(input, output, 3, ZeroStage.AS_SAVED))
        .contains("head.weight")
        .contains("ranks 0 and 1 share it and must hold the same momentum_buffer")
        .contains("element 480 differs");
    assertThat(output.resolve("latest")).doesNotExist();
  }

  @Test
  void whatOneRankHoldsAloneMayBeAnything() {
    change(shard(input, 1), 481);

    WithoutBeam.reshard(input, output, 3);
    assertThat(Reassembly.of(output, TAG).tensors().get("00/blocks.0.out.weight.momentum_buffer"))
        .isEqualTo(
            Reassembly.of(input, TAG).tensors().get("00/blocks.0.out.weight.momentum_buffer"));
  }

  @ParameterizedTest
  @ValueSource(ints = {1, -1})
  void anElementMoreOrLessIsRefused(int more) {
    Scratch.edit(
        shard(input, more > 0 ? 0 : 1),
        root -> {
          TensorNode tensor = momentum(root);
          tensor.setGeometry(0, more > 0 ? 2001 : MOMENTUM - 1);
        });

    assertThat(refusal(input, output, 3, ZeroStage.AS_SAVED))
        .contains(more > 0 ? "2002 elements" : "1521 elements")
        .contains("head.weight")
        .contains(more > 0 ? "found a tensor of shape [2001]" : "found a tensor of shape [1520]");
  }

  @Test
  void aRankWithoutMomentumIsRefused() {
    Scratch.edit(
        shard(input, 1),
        root ->
            state(root, 0)
                .list()
                .removeIf(e -> TorchContent.text(e.key()).equals("momentum_buffer")));

    assertThat(refusal(input, output, 3, ZeroStage.AS_SAVED))
        .contains("rank_1")
        .contains("momentum_buffer of rank 1")
        .contains("found none");
  }

  @Test
  void anotherStageIsRefused() {
    assertThat(refusal(input, output, 2, 1)).contains("Muon").contains("--targetStage");
  }

  @Test
  void lengthsThatFitBothWaysOfKeepingItAskForTheConfiguration() {
    Path one = scratch.resolve("one");
    WithoutBeam.reshard(input, one, 1);
    Path shard = shard(one, 0);
    WithoutBeam.reshard(one, output, 2);
    for (Path file : new Path[] {shard, one.resolve(TAG).resolve("mp_rank_00_model_states.pt")}) {
      Scratch.edit(
          file,
          root -> {
            at(root).replace("ds_config", new PyStr("ds_config.json"));
            if (file.equals(shard)) {
              at(root, "optimizer_state_dict").replace("ds_version", new PyStr("0.19.8"));
            }
          });
    }

    assertThat(refusal(one, scratch.resolve("again"), 1, ZeroStage.AS_SAVED))
        .contains("momentum_buffer")
        .contains("--dsConfig");
  }
}
