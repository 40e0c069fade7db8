package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.GraphCopy;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.io.IOException;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;

/** What cannot be taken to another ZeRO stage. */
class StageRefusalTest extends RefusalCase {
  private static final String MODEL = "zero_pp_rank_%d_mp_rank_00_model_states.pt";

  private void copy(String name) {
    copyCase("corpus/" + name);
  }

  private void edit(String name, int rank, Consumer<PickledValue> change) {
    edit(name.formatted(rank), change);
  }

  private void assertNotTurned(int ranks, int stage, String because) {
    assertThatThrownBy(() -> plan(ranks, stage))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(because);
  }

  @Test
  void aMixtureOfExpertsIsNotTurnedToStage3() throws IOException {
    copy("moe-z2-ep2");

    assertNotTurned(2, 3, "native mixtures of experts do not work with ZeRO-3 in DeepSpeed");
    assertThat(plan(2, 1).notes()).contains("stage 2 → stage 1");
  }

  @Test
  void aPipelineIsNotTurnedToStage2() throws IOException {
    copy("pp2-z1");

    assertNotTurned(2, 2, "pipeline modules do not work with ZeRO-2 and 3 in DeepSpeed");
  }

  @Test
  void anElasticCheckpointIsNotTurnedToStage3() throws IOException {
    copy("z2-elastic");

    assertNotTurned(2, 3, "elastic_checkpoint");
  }

  @Test
  void withoutAConfigTheStageCannotBeChanged() throws IOException {
    copy("z3-freeze-tie");
    for (int rank = 0; rank < 2; rank++) {
      edit(MODEL, rank, root -> root.entries().replace("ds_config", new PyStr("ds.json")));
    }

    assertNotTurned(2, 2, "only the path of its file");
  }

  @Test
  void theStageThatItHasAlreadyIsNoChange() throws IOException {
    copy("z3-freeze-tie");

    assertThat(plan(3, 3)).isEqualTo(plan(3));
  }

  @Test
  void whatZero3EmptiedUnderAnotherNameIsNotTakenToAnotherStage() throws IOException {
    copy("z3-freeze-tie");
    for (int rank = 0; rank < 2; rank++) {
      edit(
          MODEL,
          rank,
          root -> {
            PickledValue module = root.get("module");
            PickledValue placeholder =
                module.children().stream()
                    .map(PickledValue.Entry::value)
                    .filter(value -> value.tensor().numel() == 0)
                    .findFirst()
                    .orElseThrow();
            module.entries().add(new PyStr("alias"), GraphCopy.of(placeholder.node()));
          });
    }

    assertThat(plan(3).targets()).isNotEmpty();
    assertThatThrownBy(() -> plan(3, 2))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("alias has 0 elements and is neither parameter nor buffer")
        .hasMessageContaining("Leave --targetStage out");
  }
}
