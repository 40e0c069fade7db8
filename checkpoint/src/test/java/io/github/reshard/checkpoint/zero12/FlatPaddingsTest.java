package io.github.reshard.checkpoint.zero12;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.ReshardPlanner;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.testing.Corpus;
import io.github.reshard.testing.EditedTorchFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.assertj.core.api.AbstractThrowableAssert;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Which way of padding is read from checkpoints of several versions of DeepSpeed, some edited. */
class FlatPaddingsTest {
  private static final Path TESTDATA = Corpus.ROOT.resolveSibling("field");
  private static final String TAG = "global_step3";

  @TempDir Path directory;

  private void copy(Path source) throws IOException {
    Files.createDirectories(directory.resolve(TAG));
    Files.copy(source.resolve("latest"), directory.resolve("latest"));
    try (Stream<Path> files = Files.list(source.resolve(TAG))) {
      for (Path file : files.toList()) {
        Files.copy(file, directory.resolve(source.relativize(file).toString()));
      }
    }
  }

  private ReshardPlan plan(int targetWorldSize) throws IOException {
    LocalSourceStore store = new LocalSourceStore();
    return ReshardPlanner.plan(
        store,
        CheckpointFiles.discover(store, directory.toString(), Optional.empty()),
        targetWorldSize,
        1 << 20);
  }

  private Paddings target(int targetWorldSize) throws IOException {
    return ((FlatLayout) plan(targetWorldSize).models().get(0).target()).paddings();
  }

  private void editStates(int ranks, String prefix, Consumer<PickledValue> change)
      throws IOException {
    for (int rank = 0; rank < ranks; rank++) {
      editState(rank, prefix, change);
    }
  }

  private void editState(int rank, String prefix, Consumer<PickledValue> change)
      throws IOException {
    EditedTorchFile file =
        new EditedTorchFile(
            directory
                .resolve(TAG)
                .resolve(prefix + "zero_pp_rank_" + rank + "_mp_rank_00_optim_states.pt"));
    change.accept(file.root().get("optimizer_state_dict"));
    file.write();
  }

  private static void setItem(PickledValue list, int index, long number) {
    ((PyList) list.node()).items().set(index, PyInt.of(number));
  }

  private AbstractThrowableAssert<?, ? extends Throwable> assertRefused() {
    return assertThatThrownBy(() -> plan(3)).isInstanceOf(RefusedException.class);
  }

  @Test
  void theRecordsOfATinyGroupTellTheWay() throws IOException {
    copy(TESTDATA.resolve("tiny-group-deepspeed-0.9.5/source"));
    editStates(8, "", state -> state.entries().replace("ds_version", new PyStr("0.19.6")));

    assertThat(target(3).wholeOnLastRank()).isTrue();
  }

  @Test
  void theVersionTellsTheWayWhereTheRecordsDoNot() throws IOException {
    copy(Corpus.ROOT.resolve("z2-fp32-twogroups/source"));
    assertThat(target(24).wholeOnLastRank()).isFalse();

    editStates(4, "", state -> state.entries().replace("ds_version", new PyStr("0.16.3+unknown")));
    assertThat(target(24).wholeOnLastRank()).isTrue();

    editStates(4, "", state -> state.entries().replace("ds_version", new PyStr("0.16.4")));
    assertThat(target(24).wholeOnLastRank()).isFalse();
  }

  @Test
  void paddingsOfNeitherWayAreRefused() throws IOException {
    copy(TESTDATA.resolve("tiny-group-deepspeed-0.9.5/source"));
    editState(7, "", state -> setItem(state.get("group_paddings"), 1, 9));

    assertRefused()
        .hasMessageContaining("zero_pp_rank_7_mp_rank_00_optim_states.pt")
        .hasMessageContaining("expected [2, 2]")
        .hasMessageContaining("or [2, 10] if it was saved by DeepSpeed before 0.16.4")
        .hasMessageContaining("found [2, 9]");
  }

  @Test
  void paddingsOfBothWaysAreRefused() throws IOException {
    copy(TESTDATA.resolve("tiny-group-deepspeed-0.9.5/source"));
    editState(6, "", state -> setItem(state.get("group_paddings"), 1, 2));

    assertRefused().hasMessageContaining("zero_pp_rank_6").hasMessageContaining("different runs");
  }

  @Test
  void mastersThatAreNotCutByTheRecordsAreRefused() throws IOException {
    copy(TESTDATA.resolve("tiny-group-deepspeed-0.9.5/source"));
    editState(
        4,
        "",
        state ->
            state.get("single_partition_of_fp32_groups").items().get(1).tensor().setGeometry(0, 0));

    assertRefused()
        .hasMessageContaining("zero_pp_rank_4")
        .hasMessageContaining("expected the 2 elements");
  }

  @Test
  void alignmentIsReadAndKept() throws IOException {
    copy(TESTDATA.resolve("parameter-alignment-0.19.8/source"));

    assertThat(target(3).alignments()).isEqualTo(List.of(8, 8));
  }

  @Test
  void alignmentPaddingsThatDoNotAddUpAreRefused() throws IOException {
    copy(TESTDATA.resolve("parameter-alignment-0.19.8/source"));
    editStates(
        4, "bf16_", state -> setItem(state.get("param_alignment_paddings").items().get(1), 0, 4));

    assertRefused()
        .hasMessageContaining("param_alignment_paddings[1]")
        .hasMessageContaining("such as [3, 3, 0, 3, 3, 0]")
        .hasMessageContaining("found [4, 3, 0, 3, 3, 0]");
  }

  @Test
  void alignmentPaddingsOfOneRankAreRefused() throws IOException {
    copy(TESTDATA.resolve("parameter-alignment-0.19.8/source"));
    editState(
        2, "bf16_", state -> setItem(state.get("param_alignment_paddings").items().get(0), 0, 0));

    assertRefused()
        .hasMessageContaining("zero_pp_rank_2")
        .hasMessageContaining("param_alignment_paddings: expected [[7, 0, 0, 0, 0, 0]");
  }

  @Test
  void alignmentPaddingsOfTooFewParametersAreRefused() throws IOException {
    copy(TESTDATA.resolve("parameter-alignment-0.19.8/source"));
    editStates(
        4,
        "bf16_",
        state ->
            ((PyList) state.get("param_alignment_paddings").items().get(0).node())
                .items()
                .remove(5));

    assertRefused()
        .hasMessageContaining("param_alignment_paddings[0]")
        .hasMessageContaining("found [7, 0, 0, 0, 0]");
  }
}
