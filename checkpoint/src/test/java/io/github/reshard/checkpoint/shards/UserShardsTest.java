package io.github.reshard.checkpoint.shards;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.testing.Corpus;
import io.github.reshard.testing.EditedTorchFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class UserShardsTest {
  @TempDir Path directory;

  private void files(String... names) throws IOException {
    for (String name : names) {
      Files.createFile(directory.resolve(name));
    }
  }

  private Optional<UserShards> find(String pattern) throws IOException {
    return UserShards.find(
        new LocalSourceStore(), directory.toString(), Optional.ofNullable(pattern));
  }

  @ParameterizedTest
  @CsvSource({
    "optimizer.00.pt optimizer.01.pt, optimizer.*.pt, optimizer.10.pt",
    "optimizer_0.pt optimizer_1.pt, optimizer_*.pt, optimizer_10.pt",
    "optimizer-rank3.pt optimizer-rank4.pt, optimizer-rank*.pt, optimizer-rank10.pt",
    "optim.000.pt optim.001.pt, optim.*.pt, optim.010.pt",
    "rank0_optimizer_state.pth rank1_optimizer_state.pth, rank*_optimizer_state.pth,"
        + " rank10_optimizer_state.pth",
    "opt_9.bin opt_10.bin, opt_*.bin, opt_10.bin",
    "step500_optimizer_0.pt step500_optimizer_1.pt, step500_optimizer_*.pt,"
        + " step500_optimizer_10.pt",
    "optimizer_0_of_2.pt optimizer_1_of_2.pt, optimizer_*_of_2.pt, optimizer_10_of_2.pt"
  })
  void usualNamesNeedNoPattern(String names, String pattern, String rank10) throws IOException {
    files(names.split(" "));
    files("pytorch_model.bin", "config.json", "rng_state_0.pth");

    UserShards found = find(null).orElseThrow();
    assertThat(found.pattern()).isEqualTo(pattern);
    assertThat(found.nameOf(10)).isEqualTo(rank10);
    assertThat(found.beside()).hasSize(3);
  }

  @Test
  void whatHasLatestOrTheNamesOfDeepSpeedIsSomethingElse() throws IOException {
    files("zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt");
    assertThat(find(null)).isEmpty();
    files("optimizer.0.pt", "latest");
    assertThat(find(null)).isEmpty();
  }

  @Test
  void aPatternTakesNumbersInThePlaceOfTheStar() throws IOException {
    files("mine 007.x", "mine 008.x", "mine old.x");

    UserShards found = find("mine *.x").orElseThrow();
    assertThat(found.shards().keySet()).containsExactly(7, 8);
    assertThat(found.nameOf(12)).isEqualTo("mine 012.x");
    assertThat(found.beside()).singleElement().extracting("name").isEqualTo("mine old.x");
  }

  @ParameterizedTest
  @ValueSource(strings = {"optimizer.pt", "*.*.pt", "sub/optimizer.*.pt", "nothing.*.pt"})
  void aPatternThatCannotBeOneOrFitsNothingIsRefused(String pattern) throws IOException {
    files("optimizer.0.pt");

    assertThatThrownBy(() -> find(pattern))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(pattern);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = ';',
      value = {
        "optimizer.1.pt optimizer.01.pt; same rank 1",
        "optimizer.1.pt optimizer.02.pt; written in two ways",
        "optimizer.0.pt my_optimizer.0.pt; --shards='...', one of [my_optimizer.*.pt,"
            + " optimizer.*.pt]",
        "optimizer_1_2.pt optimizer_2_3.pt; which number in 'optimizer_1_2.pt' is the rank"
      })
  void whatCannotBeToldIsAskedFor(String names, String message) throws IOException {
    files(names.split(" "));

    assertThatThrownBy(() -> find(null))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(message);
  }

  @Test
  void shardsOfTwoStepsAreRefused() throws IOException {
    Path user = Corpus.ROOT.resolve("z2-fp32-twogroups/user");
    for (int rank = 0; rank < 4; rank++) {
      String name = "optimizer.%02d.pt".formatted(rank);
      Files.copy(user.resolve(name), directory.resolve(name));
    }
    EditedTorchFile later = new EditedTorchFile(directory.resolve("optimizer.02.pt"));
    later.storage("0").putFloat(0, 4f);
    later.write();
    LocalSourceStore store = new LocalSourceStore();

    assertThatThrownBy(
            () ->
                Formats.shards(store, find(null).orElseThrow(), UserHints.NONE)
                    .plan(2, ZeroStage.AS_SAVED, 1 << 20))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("optimizer.02.pt")
        .hasMessageContaining("step");
  }

  @Test
  void ranksThatAreSwappedAreRefused() throws IOException {
    Path user = Corpus.ROOT.resolve("z2-fp32-twogroups/user");
    for (int[] pair :
        List.of(new int[] {0, 0}, new int[] {1, 2}, new int[] {2, 1}, new int[] {3, 3})) {
      Files.copy(
          user.resolve("optimizer.%02d.pt".formatted(pair[0])),
          directory.resolve("optimizer.%02d.pt".formatted(pair[1])));
    }
    LocalSourceStore store = new LocalSourceStore();

    assertThatThrownBy(
            () ->
                Formats.shards(store, find(null).orElseThrow(), UserHints.NONE)
                    .plan(2, ZeroStage.AS_SAVED, 1 << 20))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("optimizer.0");
  }
}
