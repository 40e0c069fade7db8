package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.parallel.PipelineMethods;
import io.github.reshard.checkpoint.parallel.PipelineScript;
import io.github.reshard.checkpoint.parallel.PipelineTarget;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.EditedTorchFile;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Optional;
import java.util.OptionalInt;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * One training state as DeepSpeed saves it on several grids of pipeline stages, tensor-parallel and
 * data-parallel ranks: testdata/degrees/grid. What a reshard makes of one save is another one.
 */
class GridDegreesTest {
  private static final Path ROOT =
      Path.of(System.getProperty("reshard.testdata"), "degrees", "grid");

  private static final String TAG = "global_step3";

  @TempDir Path temp;

  private record Grid(int pipeline, int tensor, int data) {
    static Grid of(String text) {
      String[] degrees = text.split(" x ", -1);
      return new Grid(
          Integer.parseInt(degrees[0]), Integer.parseInt(degrees[1]), Integer.parseInt(degrees[2]));
    }

    Path saved() {
      return ROOT.resolve("p%dt%dd%d".formatted(pipeline, tensor, data));
    }

    TargetDegrees degrees() {
      return new TargetDegrees(
          Optional.of(
              new TensorHints(tensor, Optional.empty(), OptionalInt.empty(), OptionalInt.of(2))),
          Optional.empty(),
          Optional.of(
              new PipelineTarget(
                  pipeline,
                  Optional.of(PipelineMethods.of("uniform")),
                  PipelineScript.parse("embed=Embed,Block*4,LayerNorm,embed=Embed"))));
    }
  }

  private Path turned(Path source, String output, Grid to) {
    WithoutBeam.reshard(source, temp.resolve(output), to.data(), to.degrees());
    return temp.resolve(output);
  }

  @ParameterizedTest
  @CsvSource({
    "2 x 2 x 2, 1 x 1 x 8",
    "2 x 2 x 2, 1 x 1 x 3",
    "1 x 1 x 3, 2 x 2 x 1",
    "2 x 2 x 1, 3 x 1 x 1",
    "3 x 1 x 1, 1 x 3 x 1",
    "1 x 3 x 1, 2 x 2 x 2",
    "1 x 1 x 8, 3 x 1 x 1",
    "3 x 1 x 1, 2 x 2 x 2",
    "1 x 3 x 1, 1 x 1 x 3",
  })
  void theFilesAreThoseThatDeepSpeedSavesThere(String from, String to) {
    Grid source = Grid.of(from);
    Path there = turned(source.saved(), "there", Grid.of(to));
    Path back = turned(there, "back", source);

    assertThat(CheckpointComparison.with(Grid.of(to).saved()).firstDifference(there)).isEmpty();
    assertThat(CheckpointComparison.with(source.saved()).firstDifference(back)).isEmpty();
  }

  @Test
  void stagesThatStayAreAsSaved() {
    Path there = temp.resolve("there");
    TargetDegrees tensor = new TargetDegrees(Grid.of("2 x 1 x 1").degrees().tensor());
    WithoutBeam.reshard(Grid.of("2 x 2 x 1").saved(), there, 2, tensor);
    Path back = turned(there, "back", Grid.of("2 x 2 x 1"));

    assertThat(CheckpointComparison.with(Grid.of("2 x 2 x 1").saved()).firstDifference(back))
        .isEmpty();
  }

  private Path copy() throws IOException {
    Scratch.copyOf(Grid.of("2 x 2 x 1").saved(), temp.resolve("copy"));
    return temp.resolve("copy");
  }

  private void assertRefused(Path input, String... words) {
    assertThatThrownBy(() -> turned(input, "refused", Grid.of("1 x 1 x 3")))
        .isInstanceOf(RefusedException.class)
        .satisfies(
            e -> {
              for (String word : words) {
                assertThat(e).hasMessageContaining(word);
              }
            });
  }

  private static void exchange(Path tag, String one, String other) throws IOException {
    Files.move(tag.resolve(one), tag.resolve("kept"));
    Files.move(tag.resolve(other), tag.resolve(one));
    Files.move(tag.resolve("kept"), tag.resolve(other));
  }

  /** Of tensor-parallel ranks, of stages, and of both. */
  @ParameterizedTest
  @CsvSource({
    "layer_02-model_00-model_states.pt, layer_02-model_01-model_states.pt",
    "layer_02-model_00-model_states.pt, layer_03-model_00-model_states.pt",
    "mp_rank_00_model_states.pt, mp_rank_01_model_states.pt",
    "mp_rank_01_model_states.pt, mp_rank_03_model_states.pt",
    "bf16_zero_pp_rank_0_mp_rank_02_optim_states.pt,"
        + " bf16_zero_pp_rank_0_mp_rank_03_optim_states.pt",
    "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt,"
        + " bf16_zero_pp_rank_0_mp_rank_02_optim_states.pt",
  })
  void filesThatWereExchangedAreRefused(String one, String other) throws IOException {
    Path input = copy();
    exchange(input.resolve(TAG), one, other);

    assertRefused(input);
  }

  /** Of one stage or of two: nothing but the name of its parameter says that it had a file. */
  @ParameterizedTest
  @ValueSource(ints = {1, 2})
  void aTiedLayerWithoutItsFileIsRefused(int stages) throws IOException {
    Path copy = temp.resolve("copy");
    Scratch.copyOf(ROOT.resolveSibling("pipeline-tied").resolve("source"), copy);
    Files.delete(copy.resolve(TAG).resolve("layer_00-model_states.pt"));
    Optional<PipelineTarget> one =
        Optional.of(new PipelineTarget(1, Optional.empty(), PipelineScript.NOT_SAID));
    TargetDegrees degrees =
        new TargetDegrees(Optional.empty(), Optional.empty(), stages == 1 ? one : Optional.empty());

    assertThatThrownBy(() -> WithoutBeam.reshard(copy, temp.resolve("refused"), 2, degrees))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("tied_modules.embed")
        .hasMessageContaining("in the file of its layer");
  }

  @Test
  void aBufferThatDiffersAmongTensorParallelRanksIsRefused() throws IOException {
    Path input = copy();
    EditedTorchFile layer =
        new EditedTorchFile(input.resolve(TAG).resolve("layer_02-model_01-model_states.pt"));
    String key = layer.root().get("seen").tensor().storageKey();
    layer.storage(key).put(1, (byte) (layer.storage(key).get(1) ^ 1));
    layer.write();

    assertRefused(input, "layer_02-model_01", "seen is not what");
  }

  @Test
  void aWeightThatEveryRankHasAndThatDiffersIsRefused() throws IOException {
    Path input = copy();
    EditedTorchFile layer =
        new EditedTorchFile(input.resolve(TAG).resolve("layer_02-model_01-model_states.pt"));
    String key = layer.root().get("norm.weight").tensor().storageKey();
    layer.storage(key).put(0, (byte) (layer.storage(key).get(0) ^ 1));
    layer.write();

    assertRefused(input, "2.norm.weight");
  }

  /** A state of a tied layer that one stage has otherwise than the other. */
  @Test
  void aTiedStateThatDiffersIsRefused() throws IOException {
    Path input = copy();
    EditedTorchFile file =
        new EditedTorchFile(
            input.resolve(TAG).resolve("bf16_zero_pp_rank_0_mp_rank_03_optim_states.pt"));
    PickledValue states =
        file.root().get("optimizer_state_dict").get("base_optimizer_state").get("state");
    String key = states.children().get(0).value().get("exp_avg").tensor().storageKey();
    file.storage(key).put(0, (byte) (file.storage(key).get(0) ^ 1));
    file.write();

    assertRefused(input, "tied_modules.embed.word_embeddings.weight", "exp_avg");
  }

  @Test
  void aPatternThatIsMissingIsRefused() throws IOException {
    Path input = copy();
    for (int rank = 0; rank < 4; rank++) {
      EditedTorchFile file =
          new EditedTorchFile(
              input.resolve(TAG).resolve("mp_rank_0%d_model_states.pt".formatted(rank)));
      file.root()
          .get("universal_checkpoint_info")
          .entries()
          .list()
          .removeIf(
              entry -> ((PyStr) entry.key()).value().equals("tp_replicated_parameter_patterns"));
      file.write();
    }

    assertRefused(input, "norm", "A pattern is missing or wrong");
  }
}
