package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.testing.EditedTorchFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;

/** What a mixture of experts must not hold. */
class ExpertsRefusalTest extends RefusalCase {
  private void copy(String name) {
    copyCase("corpus/" + name);
  }

  @Test
  void anExpertParallelSizeThatDoesNotDivideTheTargetIsRefused() throws IOException {
    copy("moe-z2-ep2");

    assertRefused(3)
        .hasMessageContaining("the expert-parallel size is 2")
        .hasMessageContaining("multiple of 2");
    assertThat(plan(6).notes()).isEmpty();
  }

  @Test
  void aBareNumberOfExpertsIsRefused() throws IOException {
    copy("moe-z2-ep2");
    edit("mp_rank_00_model_states.pt", root -> root.entries().replace("num_experts", PyInt.of(4)));

    assertRefused(2).hasMessageContaining("one number for each layer").hasMessageContaining("4");
  }

  @Test
  void anExpertOptimizerFileIsCarriedOnlyIfItHasNoTensor() throws IOException {
    copy("moe-z2-ep2");
    Path expert = directory.resolve(TAG).resolve("expp_rank_0_mp_rank_00_optim_states.pt");
    Files.copy(directory.resolve(TAG).resolve("mp_rank_00_model_states.pt"), expert);
    EditedTorchFile saved = new EditedTorchFile(expert);
    saved.setArchiveName("expp_rank_0_mp_rank_00_optim_states");
    saved.write();

    assertRefused(2).hasMessageContaining("expp_rank_0").hasMessageContaining("without ZeRO");

    EditedTorchFile file = new EditedTorchFile(expert);
    file.root().entries().list().removeIf(e -> !(e.value() instanceof PyInt));
    file.write();

    assertThat(plan(2).targets())
        .extracting(TargetFile::path)
        .contains(TAG + "/" + expert.getFileName());
  }
}
