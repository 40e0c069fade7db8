package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.SourceCopy;
import io.github.reshard.testing.TorchContent;
import io.github.reshard.testing.WithoutBeam;
import java.nio.file.Path;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
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

    assertThat(Resharding.refusal(input, output, 3))
        .contains("head.weight")
        .contains("ranks 0 and 1 share it and must hold the same momentum_buffer")
        .contains("element 480 differs");
    assertThat(output.resolve("latest")).doesNotExist();
  }

  @Test
  void trustInMastersIsNoTrustInMomentum() {
    change(shard(input, 1), 0);
    ReshardOptions options = Resharding.options(input, output, 1);
    options.setTrustMasters(true);

    assertThat(Resharding.refusal(options)).contains("ranks 0 and 1 share it");
  }

  @Test
  void whatOneRankHoldsAloneMayBeAnything() {
    change(shard(input, 1), 481);

    Resharding.run(Resharding.options(input, output, 3));
    assertThat(Reassembly.of(output, TAG).tensors().get("00/blocks.0.out.weight.momentum_buffer"))
        .isEqualTo(
            Reassembly.of(input, TAG).tensors().get("00/blocks.0.out.weight.momentum_buffer"));
  }

  @Test
  void aCopyThatNoRankOfTheTargetGetsIsProvenAllTheSame() throws Exception {
    new SourceCopy(input, TAG)
        .damage(
            shard(input, 1).getFileName().toString(),
            momentum(TorchContent.read(shard(input, 1)).root()).storageKey(),
            bytes -> bytes.put(4 * 1520, (byte) (bytes.get(4 * 1520) ^ 1)));

    assertThat(Resharding.refusal(input, output, 1)).contains("CRC-32").contains("momentum_buffer");
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

    assertThat(Resharding.refusal(input, output, 3))
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

    assertThat(Resharding.refusal(input, output, 3))
        .contains("rank_1")
        .contains("momentum_buffer of rank 1")
        .contains("found none");
  }

  @Test
  void anotherStageIsRefused() {
    ReshardOptions options = Resharding.options(input, output, 2);
    options.setTargetStage(1);

    assertThat(Resharding.refusal(options)).contains("Muon").contains("--targetStage");
  }

  @Test
  void lengthsThatFitBothWaysOfKeepingItAskForTheConfiguration() {
    Path one = scratch.resolve("one");
    WithoutBeam.reshard(input, one, 1);
    Path shard = shard(one, 0);
    Resharding.run(Resharding.options(one, output, 2));
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

    assertThat(Resharding.refusal(one, scratch.resolve("again"), 1))
        .contains("momentum_buffer")
        .contains("--dsConfig");
  }

  @Test
  void verifySeesACopyThatDiffers() {
    Resharding.run(Resharding.options(input, output, 2));
    change(shard(output, 1), 7);
    CommandOptions options = PipelineOptionsFactory.as(CommandOptions.class);
    options.setInput(input.toString());
    options.setOutput(output.toString());
    VerifyReport report = VerifyPipeline.run(options, Resharding.SILENT);

    assertThat(report.equal()).isFalse();
    assertThat(report.verdicts().stream().filter(verdict -> !verdict.equal()))
        .singleElement()
        .satisfies(
            verdict -> {
              assertThat(verdict.parameter().name()).isEqualTo("head.weight");
              assertThat(verdict.state()).isEqualTo("momentum_buffer on rank 1 of --output");
              assertThat(verdict.element()).isEqualTo(7);
            });
  }
}
