package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.EditedTorchFile;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * One training state as DeepSpeed saves it at several numbers of tensor-parallel ranks:
 * testdata/tensor. What a reshard makes of one save is another one.
 */
class TensorDegreesTest {
  private static final Path ROOT = Path.of(System.getProperty("reshard.testdata"), "tensor");

  private static final String TAG = "global_step3";

  @TempDir Path temp;

  private static Path saved(String name, int tensor, int data) {
    return ROOT.resolve(name).resolve("tp%ddp%d".formatted(tensor, data));
  }

  /**
   * @param heads key-value heads, 0 if the model says none, or less if nothing is said: then a
   *     vocabulary is padded to multiples of 4
   */
  private static TargetDegrees degrees(int ranks, int heads) {
    return new TargetDegrees(
        Optional.of(
            new TensorHints(
                ranks,
                Optional.empty(),
                heads < 0 ? OptionalInt.empty() : OptionalInt.of(heads),
                heads < 0 ? OptionalInt.of(4) : OptionalInt.empty())));
  }

  private Path turned(Path input, String output, int tensor, int data, int heads) {
    WithoutBeam.reshard(input, temp.resolve(output), data, degrees(tensor, heads));
    return temp.resolve(output);
  }

  @ParameterizedTest
  @CsvSource({
    "columns-z1, 2, 2, 4, 1, 0",
    "columns-z1, 2, 2, 3, 1, 0",
    "columns-z1, 3, 1, 2, 2, 0",
    "columns-z1, 4, 1, 3, 1, 0",
    "columns-z2, 2, 2, 4, 1, 0",
    "columns-z2, 3, 1, 2, 2, 0",
    "columns-gad, 2, 2, 4, 1, 0",
    "columns-gad, 4, 1, 2, 2, 0",
    "llama-z1, 2, 1, 3, 1, 4",
    "llama-z1, 2, 1, 4, 1, 4",
    "llama-z1, 3, 1, 2, 1, 4",
    "llama-z1, 4, 1, 3, 1, 4",
    "llama-tied-z2, 2, 1, 4, 1, 4",
    "llama-tied-z2, 4, 1, 2, 1, 4",
    "columns-z3, 2, 2, 4, 1, 0",
    "columns-z3, 3, 1, 2, 2, 0",
    "llama-z3, 2, 1, 3, 1, 4",
    "llama-z3, 3, 1, 2, 1, 4",
    "qkv-z2, 2, 1, 5, 1, 0",
    "qkv-z2, 5, 1, 2, 1, 0",
    "cut-z1, 2, 1, 4, 1, -1",
    "cut-z1, 4, 1, 2, 1, -1",
    "frozen-z1, 2, 2, 3, 1, 0",
    "frozen-z2, 3, 1, 2, 2, 0",
    "frozen-z3, 2, 2, 3, 1, 0",
    "frozen-z3, 3, 1, 2, 2, 0",
  })
  void theFilesAreThoseThatDeepSpeedSavesThere(
      String name, int tensor, int data, int otherTensor, int otherData, int heads) {
    Path expected = saved(name, otherTensor, otherData);

    Path output = turned(saved(name, tensor, data), "turned", otherTensor, otherData, heads);

    assertThat(
            (name.startsWith("frozen")
                    ? CheckpointComparison.withSizesOf(saved(name, tensor, data), expected)
                    : CheckpointComparison.withSource(expected, saved(name, tensor, data)))
                .firstDifference(output))
        .isEmpty();
  }

  /**
   * A run of one rank says nothing of tensor parallelism, so that only what it holds is compared.
   */
  @ParameterizedTest
  @CsvSource({
    "columns-z1, 2, 2, 3, 0",
    "columns-z2, 3, 1, 3, 0",
    "columns-gad, 2, 2, 3, 0",
    "columns-fp16, 2, 2, 3, 0",
    "llama-z1, 3, 1, 2, 4",
    "llama-z1, 4, 1, 2, -1",
    "llama-tied-z2, 2, 1, 2, 4",
    "qkv-z2, 5, 1, 2, 0",
    "cut-z1, 4, 1, 2, -1",
    "columns-z3, 4, 1, 3, 0",
    "llama-z3, 3, 1, 2, 4",
    "qkv-z3, 2, 2, 3, 0",
    "cut-z3, 2, 1, 2, -1",
    "frozen-z1, 3, 1, 3, 0",
    "frozen-z2, 2, 2, 3, 0",
    "frozen-z3, 3, 1, 3, 0",
  })
  void oneRankHasWhatDeepSpeedSavesThere(String name, int tensor, int data, int ranks, int heads) {
    Reassembly expected = Reassembly.of(saved(name, 1, ranks), TAG);

    Reassembly output =
        Reassembly.of(turned(saved(name, tensor, data), "turned", 1, ranks, heads), TAG);

    assertThat(output.tensors())
        .hasSameSizeAs(expected.tensors())
        .containsAllEntriesOf(expected.tensors());
    assertThat(output.replicated()).containsExactlyInAnyOrderEntriesOf(expected.replicated());
    assertThat(output.weights().keySet()).isEqualTo(expected.weights().keySet());
    expected
        .weights()
        .forEach(
            (parameter, weight) ->
                assertThat(output.weights().get(parameter).bytes())
                    .as(parameter)
                    .isEqualTo(weight.bytes()));
  }

  @ParameterizedTest
  @CsvSource({
    "columns-z1, 2, 2, 0",
    "columns-z2, 3, 1, 0",
    "columns-gad, 2, 2, 0",
    "llama-z1, 3, 1, 4",
    "llama-tied-z2, 2, 1, 4",
    "qkv-z2, 5, 1, 0",
    "cut-z1, 2, 1, -1",
    "columns-z3, 2, 2, 0",
    "llama-z3, 3, 1, 4",
    "qkv-z3, 2, 2, 0",
    "cut-z3, 2, 1, -1",
    "frozen-z1, 2, 2, 0",
    "frozen-z2, 3, 1, 0",
    "frozen-z3, 2, 2, 0",
  })
  void thereAndBackIsTheSource(String name, int tensor, int data, int heads) {
    Path source = saved(name, tensor, data);
    Path one = turned(source, "one", 1, 3, heads);

    assertThat(
            CheckpointComparison.with(source)
                .firstDifference(turned(one, "back", tensor, data, heads)))
        .isEmpty();
  }

  /** Tensor-parallel ranks stay, the stage does not. */
  @ParameterizedTest
  @CsvSource({
    "columns-z1, columns-z2, 2, 2",
    "columns-z1, columns-z3, 2, 2",
    "columns-z2, columns-z3, 4, 1",
    "columns-z3, columns-z1, 2, 2",
    "columns-z3, columns-z2, 3, 1",
    "llama-z1, llama-z3, 3, 1",
    "llama-z3, llama-z1, 3, 1",
    "cut-z1, cut-z3, 2, 1",
    "cut-z3, cut-z1, 2, 1",
    "frozen-z1, frozen-z3, 2, 2",
    "frozen-z3, frozen-z2, 3, 1",
  })
  void anotherStageHasWhatDeepSpeedSavesThere(String name, String other, int tensor, int data) {
    Path expected = saved(other, tensor, data);
    int stage = other.charAt(other.length() - 1) - '0';

    WithoutBeam.reshard(saved(name, tensor, data), temp.resolve("there"), data, stage);

    assertThat(CheckpointComparison.with(expected).firstDifference(temp.resolve("there")))
        .isEmpty();
  }

  /** Both change at once. */
  @ParameterizedTest
  @CsvSource({
    "columns-z1, 2, 2, columns-z2, 4, 1, 0",
    "columns-z2, 3, 1, columns-z1, 2, 2, 0",
    "columns-z1, 4, 1, columns-z3, 2, 2, 0",
    "columns-z2, 2, 2, columns-z3, 3, 1, 0",
    "columns-z3, 2, 2, columns-z1, 4, 1, 0",
    "columns-z3, 4, 1, columns-z2, 2, 2, 0",
    "llama-z1, 4, 1, llama-z3, 3, 1, 4",
    "llama-z3, 2, 1, llama-z1, 3, 1, 4",
    "cut-z1, 4, 1, cut-z3, 2, 1, -1",
    "cut-z3, 2, 1, cut-z1, 4, 1, -1",
    "frozen-z1, 2, 2, frozen-z2, 3, 1, 0",
    "frozen-z2, 3, 1, frozen-z1, 2, 2, 0",
    "frozen-z2, 2, 2, frozen-z3, 3, 1, 0",
    "frozen-z3, 2, 2, frozen-z1, 3, 1, 0",
    "frozen-z3, 3, 1, frozen-z2, 2, 2, 0",
  })
  void anotherStageAndOtherRanksAtOnce(
      String name, int tensor, int data, String other, int otherTensor, int otherData, int heads) {
    Path expected = saved(other, otherTensor, otherData);
    int stage = other.charAt(other.length() - 1) - '0';

    WithoutBeam.reshard(
        saved(name, tensor, data),
        temp.resolve("there"),
        otherData,
        stage,
        degrees(otherTensor, heads));

    assertThat(
            CheckpointComparison.withSizesOf(saved(name, tensor, data), expected)
                .firstDifference(temp.resolve("there")))
        .isEmpty();
  }

  @ParameterizedTest
  @CsvSource({"frozen-z1, 2", "frozen-z3, 3", "frozen-z3, 1"})
  void aFrozenWeightThatEveryRankHasAndThatDiffersIsRefused(String name, int stage)
      throws IOException {
    Path copy = copyOf(name, 2, 2);
    boolean pieces = name.endsWith("3");
    EditedTorchFile model =
        new EditedTorchFile(
            copy.resolve(TAG)
                .resolve((pieces ? "zero_pp_rank_1_" : "") + "mp_rank_01_model_states.pt"));
    String key =
        model
            .root()
            .get(pieces ? "frozen_param_fragments" : "module")
            .get("emb.weight")
            .tensor()
            .storageKey();
    model.storage(key).put(8, (byte) (model.storage(key).get(8) ^ 1));
    model.write();

    assertThatThrownBy(
            () -> WithoutBeam.reshard(copy, temp.resolve("turned"), 1, stage, degrees(3, 0)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("emb.weight");
  }

  /** Only one rank's buffers go on. */
  @ParameterizedTest
  @CsvSource({"frozen-z3, 3", "frozen-z3, 1", "frozen-z1, 1", "frozen-z1, 3"})
  void buffersThatDifferAreRefused(String name, int stage) throws IOException {
    Path copy = copyOf(name, 2, 2);
    Path file =
        copy.resolve(TAG)
            .resolve((name.endsWith("3") ? "zero_pp_rank_0_" : "") + "mp_rank_01_model_states.pt");
    EditedTorchFile model = new EditedTorchFile(file);
    PickledValue buffer = model.root().get("module").get("seen");
    model.storage(buffer.tensor().storageKey()).put(0, (byte) 77);
    model.write();

    assertThatThrownBy(
            () -> WithoutBeam.reshard(copy, temp.resolve("turned"), 1, stage, degrees(1, 0)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("seen is not what");
  }

  private Path copyOf(String name, int tensor, int data) throws IOException {
    Path copy = temp.resolve("source");
    Scratch.copyOf(saved(name, tensor, data), copy);
    return copy;
  }

  @Test
  void aReplicatedParameterThatDiffersIsRefused() throws IOException {
    Path copy = copyOf("columns-z1", 2, 2);
    EditedTorchFile file =
        new EditedTorchFile(
            copy.resolve(TAG).resolve("bf16_zero_pp_rank_0_mp_rank_01_optim_states.pt"));
    PickledValue states =
        file.root().get("optimizer_state_dict").get("base_optimizer_state").get("state");
    String key = states.children().get(0).value().get("exp_avg").tensor().storageKey();
    file.storage(key).put(0, (byte) (file.storage(key).get(0) ^ 1)); // of emb.weight
    file.write();

    assertThatThrownBy(() -> turned(copy, "turned", 4, 1, 0))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("emb.weight")
        .hasMessageContaining("exp_avg");
  }

  @Test
  void partsThatAreAllTheSameAreNoParts() throws IOException {
    Path copy = copyOf("columns-z1", 2, 2);
    for (int rank = 0; rank < 2; rank++) {
      EditedTorchFile file =
          new EditedTorchFile(
              copy.resolve(TAG).resolve("mp_rank_0%d_model_states.pt".formatted(rank)));
      file.root()
          .get("universal_checkpoint_info")
          .entries()
          .list()
          .removeIf(
              entry ->
                  Set.of("tp_replicated_parameter_patterns", "affine_map")
                      .contains(((PyStr) entry.key()).value()));
      file.write();
    }

    assertThatThrownBy(() -> turned(copy, "turned", 1, 1, 0))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("emb.weight is cut among its tensor-parallel ranks")
        .hasMessageContaining("A pattern is missing or wrong");
  }

  @Test
  void withoutRulesOneRankIsNotCut() {
    assertThatThrownBy(() -> turned(saved("llama-z1", 1, 2), "turned", 2, 1, 4))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("--tpRules=FILE.json");
  }

  @Test
  void aFileOfRulesCutsWhatOneRankSaved() {
    Path output = temp.resolve("turned");

    WithoutBeam.reshard(
        saved("llama-z1", 1, 2),
        output,
        1,
        new TargetDegrees(
            Optional.of(
                new TensorHints(3, Optional.of("llama"), OptionalInt.of(4), OptionalInt.empty()))));

    assertThat(Reassembly.of(output, TAG).tensors())
        .containsExactlyInAnyOrderEntriesOf(Reassembly.of(saved("llama-z1", 3, 1), TAG).tensors());
  }
}
