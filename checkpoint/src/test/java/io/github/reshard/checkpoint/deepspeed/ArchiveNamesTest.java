package io.github.reshard.checkpoint.deepspeed;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assertions.assertDoesNotThrow;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.testing.Corpus;
import io.github.reshard.testing.EditedTorchFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Files whose archives say what they were saved as. */
class ArchiveNamesTest {
  @TempDir Path directory;
  private Path any;

  @BeforeEach
  void copy() throws IOException {
    any = directory.resolve("any");
    Files.copy(
        Path.of(
            System.getProperty("reshard.testdata"),
            "corpus/z1-sgd/source/global_step3/mp_rank_00_model_states.pt"),
        any);
  }

  private void add(ArchiveNames names, String name, String archive) throws IOException {
    EditedTorchFile edited = new EditedTorchFile(any);
    edited.setArchiveName(archive);
    edited.write();
    try (RangedFile open = Corpus.open(any)) {
      names.add(new FileStat("tag/" + name, name, 1, "1", false), TorchFile.read(open));
    }
  }

  private static String optimizer(int rank, int mpRank) {
    return "zero_pp_rank_%d_mp_rank_%02d_optim_states".formatted(rank, mpRank);
  }

  private Evidence evidence(String... namesAndArchives) throws IOException {
    ArchiveNames names = new ArchiveNames();
    for (int i = 0; i < namesAndArchives.length; i += 2) {
      add(names, namesAndArchives[i] + ".pt", namesAndArchives[i + 1]);
    }
    return names.evidence().get(0);
  }

  private void assertRefused(String message, String... namesAndArchives) {
    assertThatThrownBy(() -> evidence(namesAndArchives))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(message);
  }

  @Test
  void anotherFileIsRefusedByName() {
    assertRefused("saved as the optimizer file of rank 2", optimizer(3, 0), optimizer(2, 0));
    assertRefused("saved as the model file", optimizer(0, 0), "mp_rank_00_model_states");
    assertRefused("expected the file of layer 2", "layer_02-model_states", "layer_00-model_states");
    assertRefused(
        "saved as the file of expert 1 of layer 0",
        "layer_0_expert_0_mp_rank_00_model_states",
        "layer_0_expert_1_mp_rank_00_model_states");
    assertRefused(
        "saved as the model file of rank 1",
        "zero_pp_rank_0_mp_rank_00_model_states",
        "zero_pp_rank_1_mp_rank_00_model_states");
  }

  @Test
  void modelParallelRanksThatAreAllRenamedAlikeAreNot() throws IOException {
    Evidence renamed =
        evidence(
            optimizer(0, 0),
            optimizer(0, 1),
            optimizer(1, 0),
            optimizer(1, 1),
            "mp_rank_00_model_states",
            "mp_rank_01_model_states");

    assertThat(renamed.by()).contains("renamed all alike");
    assertThat(renamed.files()).isEqualTo(3);
  }

  @Test
  void ranksOfASequenceThatAreRenamedToTodaysNamesAreNot() {
    assertDoesNotThrow(
        () ->
            evidence(
                optimizer(0, 0), optimizer(0, 0),
                optimizer(1, 0), optimizer(1, 1),
                optimizer(2, 0), optimizer(2, 0),
                optimizer(3, 0), optimizer(3, 1)));
  }

  @Test
  void oneModelParallelRankThatIsCalledAnotherIs() {
    assertRefused(
        "mp rank 1",
        optimizer(0, 0),
        optimizer(0, 1),
        optimizer(1, 0),
        optimizer(1, 0),
        "mp_rank_00_model_states",
        "mp_rank_00_model_states");
    assertRefused("mp rank 1", optimizer(0, 0), optimizer(0, 1), optimizer(0, 1), optimizer(0, 0));
  }

  @Test
  void whatTellsNothingIsListed() throws IOException {
    Evidence evidence = evidence(optimizer(0, 0), "archive", optimizer(1, 0), optimizer(1, 0));

    assertThat(evidence.files()).isEqualTo(1);
    assertThat(evidence.without()).isEqualTo(List.of(optimizer(0, 0) + ".pt"));
    assertThat(evidence.whyNot()).contains("archives");
  }

  @Test
  void aFileThatGotItsNameWhenItWasWholeIsTold() throws IOException {
    assertThat(evidence(optimizer(0, 0), optimizer(0, 0) + ".pt").without()).isEmpty();
    assertRefused("rank 1", optimizer(0, 0), optimizer(1, 0) + ".pt");
  }

  @Test
  void foreignNamesInAnotherOrderAreRefused() {
    assertRefused("'mine_1'", optimizer(0, 0), "mine_1", optimizer(1, 0), "mine_0");
  }

  @Test
  void namesThatDeepSpeedDoesNotLookForAreRefused() {
    assertRefused(
        "expected the name 'zero_pp_rank_1_mp_rank_00_optim_states.pt'",
        "zero_pp_rank_01_mp_rank_00_optim_states",
        "archive");
    assertRefused("begins with", optimizer(0, 0), "archive", "bf16_" + optimizer(1, 0), "archive");
  }
}
