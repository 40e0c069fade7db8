package io.github.reshard.checkpoint.deepspeed;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class CheckpointFilesTest {
  private static final String MODEL = "mp_rank_00_model_states.pt";
  private static final String RANK_0 = "zero_pp_rank_0_mp_rank_00_optim_states.pt";
  private static final String RANK_1 = "zero_pp_rank_1_mp_rank_00_optim_states.pt";

  @TempDir Path directory;

  private void write(String... paths) throws IOException {
    for (String path : paths) {
      Path file = directory.resolve(path);
      Files.createDirectories(file.getParent());
      Files.writeString(file, "x");
    }
  }

  private void latest(String tag) throws IOException {
    Files.writeString(directory.resolve("latest"), tag);
  }

  private CheckpointFiles discover() throws IOException {
    return discover(Optional.empty());
  }

  private CheckpointFiles discover(Optional<String> tag) throws IOException {
    return CheckpointFiles.discover(new LocalSourceStore(), directory.toString(), tag);
  }

  private static List<String> paths(List<CheckpointFiles.Carried> files) {
    return files.stream().map(CheckpointFiles.Carried::path).toList();
  }

  @Test
  void filesAreSortedByWhatTheyAreFor() throws IOException {
    latest("step3\n");
    write(
        "step3/" + MODEL,
        "step3/" + RANK_0,
        "step3/zero_pp_rank_11_mp_rank_00_optim_states.pt",
        "step3/bf16_zero_pp_rank_0_mp_rank_01_optim_states.pt",
        "step3/zero_pp_rank_2_mp_rank_01optim_states.pt",
        "step3/layer_04-model_states.pt",
        "step3/layer_04-model_01-model_states.pt",
        "step3/zero_pp_rank_3_mp_rank_00_model_states.pt",
        "step3/layer_0_expert_1_mp_rank_00_model_states.pt",
        "step3/expp_rank_1_mp_rank_00_optim_states.pt",
        "step3/mine.txt",
        "step3/profile/deep/trace.json");

    CheckpointFiles files = discover();

    assertThat(files.tag()).isEqualTo("step3");
    assertThat(files.models()).containsOnlyKeys(0);
    assertThat(files.optimizers().get(0)).containsOnlyKeys(0, 11);
    assertThat(files.optimizers().get(1)).containsOnlyKeys(0, 2);
    assertThat(files.rankModels().get(0)).containsOnlyKeys(3);
    assertThat(files.layers()).hasSize(2);
    assertThat(files.experts()).hasSize(2);
    assertThat(paths(files.others()))
        .containsExactly("step3/mine.txt", "step3/profile/deep/trace.json");
  }

  @Test
  void otherTagsAndUniversalCheckpointsAreNotCarriedOver() throws IOException {
    latest("step3");
    write(
        "step3/" + MODEL,
        "step2/" + MODEL,
        "step2/" + RANK_0,
        "step1/zero_pp_rank_0_mp_rank_00_model_states.pt",
        "step3_universal/zero/fc.weight/fp32.pt",
        "latest_universal",
        "zero_to_fp32.py");

    assertThat(paths(discover().beside())).containsExactly("zero_to_fp32.py");
  }

  @Test
  void aTagThatIsNotTheLatestMayBeNamed() throws IOException {
    latest("step3");
    write("step3/" + MODEL, "step2/" + MODEL, "step2/" + RANK_0);

    CheckpointFiles files = discover(Optional.of("step2"));

    assertThat(files.tag()).isEqualTo("step2");
    assertThat(files.beside()).isEmpty();
  }

  @Test
  void huggingFaceTrainerKeepsItsFilesAroundTheTag() throws IOException {
    latest("global_step500");
    write(
        "global_step500/" + MODEL,
        "global_step500/" + RANK_0,
        "trainer_state.json",
        "rng_state_0.pth",
        "rng_state_1.pth",
        "scheduler.pt",
        "training_args.bin",
        "model.safetensors",
        "zero_to_fp32.py");

    assertThat(paths(discover().beside()))
        .containsExactly(
            "model.safetensors",
            "rng_state_0.pth",
            "rng_state_1.pth",
            "scheduler.pt",
            "trainer_state.json",
            "training_args.bin",
            "zero_to_fp32.py");
  }

  @Test
  void accelerateNamesItsTagPytorchModel() throws IOException {
    latest("pytorch_model");
    write(
        "pytorch_model/" + MODEL,
        "pytorch_model/" + RANK_0,
        "random_states_0.pkl",
        "custom/checkpoint_0.pkl");

    CheckpointFiles files = discover();

    assertThat(files.tag()).isEqualTo("pytorch_model");
    assertThat(paths(files.beside()))
        .containsExactly("random_states_0.pkl", "custom/checkpoint_0.pkl");
  }

  @Test
  void lightningNamesItsTagCheckpoint() throws IOException {
    latest("checkpoint");
    write("checkpoint/" + MODEL, "checkpoint/" + RANK_0);

    assertThat(discover().tag()).isEqualTo("checkpoint");
  }

  @Test
  void aDirectoryThatIsNotThereIsRefused() {
    directory = directory.resolve("nowhere");

    assertThatThrownBy(this::discover)
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("nowhere")
        .hasMessageContaining("no such directory");
  }

  @Test
  void withoutLatestTheTagsAreNamed() throws IOException {
    write("step2/" + RANK_0, "step3/" + MODEL, "logs/run.txt");

    assertThatThrownBy(this::discover)
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("--tag; found [step2, step3]");
  }

  @Test
  void theDirectoryOfATagIsUnderstood() throws IOException {
    write("step3/" + MODEL, "step3/" + RANK_0, "trainer_state.json");
    String tag = directory.resolve("step3").toString();

    for (String input : List.of(tag, tag + "/", tag + "//")) {
      CheckpointFiles files =
          CheckpointFiles.discover(new LocalSourceStore(), input, Optional.empty());

      assertThat(files.tag()).isEqualTo("step3");
      assertThat(files.directory()).isEqualTo(directory.toString());
      assertThat(paths(files.beside())).containsExactly("trainer_state.json");
    }
  }

  @Test
  void aTagMayBeAPath() throws IOException {
    latest("epoch_1/step_10");
    write(
        "epoch_1/step_10/" + MODEL,
        "epoch_1/step_10/" + RANK_0,
        "epoch_1/step_10/profile/trace.json",
        "epoch_1/step_20/" + MODEL,
        "epoch_1/notes.txt",
        "config.json");

    CheckpointFiles files = discover();

    assertThat(files.tag()).isEqualTo("epoch_1/step_10");
    assertThat(files.models()).containsOnlyKeys(0);
    assertThat(paths(files.others())).containsExactly("epoch_1/step_10/profile/trace.json");
    assertThat(paths(files.beside())).containsExactly("config.json", "epoch_1/notes.txt");
  }

  @ParameterizedTest
  @ValueSource(strings = {"../other", "step3/../step3", "/step3", "step3/", "."})
  void aTagIsADirectoryBelow(String tag) throws IOException {
    write("step3/" + MODEL);

    assertThatThrownBy(() -> discover(Optional.of(tag)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("--tag names the tag '" + tag + "', which is no directory below");
  }

  @Test
  void theDirectoriesOfTrainerAreNamed() throws IOException {
    for (int step : new int[] {90, 500, 1000}) {
      write("checkpoint-" + step + "/latest", "checkpoint-" + step + "/global_step/" + MODEL);
    }

    assertThatThrownBy(this::discover)
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("output directory of Hugging Face Trainer")
        .hasMessageContaining("[checkpoint-90, checkpoint-500, checkpoint-1000]")
        .hasMessageContaining("--input=" + directory.resolve("checkpoint-1000"));
  }

  @Test
  void aFileIsNoCheckpoint() throws IOException {
    write(MODEL);

    assertThatThrownBy(
            () ->
                CheckpointFiles.discover(
                    new LocalSourceStore(), directory.resolve(MODEL).toString(), Optional.empty()))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("this is a file");
  }

  @Test
  void anEmptyLatestIsNamed() throws IOException {
    latest("\n");
    write("step3/" + MODEL);

    assertThatThrownBy(this::discover)
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(directory.resolve("latest").toString())
        .hasMessageContaining("found nothing");
  }

  @Test
  void whatRunsOfReshardLeaveIsNotCarriedOver() throws IOException {
    latest("step3");
    write(
        "step3/" + MODEL,
        ".reshard-step3.lock",
        ".reshard-step3.publishing",
        ".reshard-step3.unpublished/12345678/step3/model.pt");

    assertThat(discover().beside()).isEmpty();
  }

  @Test
  void aDirectoryOfSomethingElseIsRefused() throws IOException {
    write("model.safetensors");

    assertThatThrownBy(this::discover)
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("no file 'latest' and no directory with ZeRO files");
  }

  @Test
  void aLatestThatNamesNothingIsRefused() throws IOException {
    latest("step9");
    write("step3/" + MODEL);

    assertThatThrownBy(this::discover)
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("'latest' names the tag 'step9'")
        .hasMessageContaining("found [step3]");
  }

  @Test
  void aTagThatIsNotThereIsRefused() throws IOException {
    latest("step3");
    write("step3/" + MODEL);

    assertThatThrownBy(() -> discover(Optional.of("step4")))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("--tag names the tag 'step4'");
  }

  @Test
  void aLatestOfThousandsOfBytesIsNoName() throws IOException {
    latest("x".repeat(5000));

    assertThatThrownBy(this::discover)
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("found a file of 5000 bytes");
  }

  @Test
  void twoFilesForOneRankAreRefused() throws IOException {
    latest("step3");
    write("step3/" + MODEL, "step3/" + RANK_1, "step3/bf16_" + RANK_1);

    assertThatThrownBy(this::discover)
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(RANK_1)
        .hasMessageContaining("for the same rank");
  }
}
