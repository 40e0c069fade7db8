package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.testing.Corpus;
import io.github.reshard.testing.EditedTorchFile;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Consumer;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** One defect a test, made in a checkpoint that DeepSpeed wrote at 4 ranks with two groups. */
class ReshardPlannerRefusalTest extends RefusalCase {
  private static final String MODEL = "mp_rank_00_model_states.pt";
  private static final String RANK_2 = "zero_pp_rank_2_mp_rank_00_optim_states.pt";

  @BeforeEach
  void copySource() throws IOException {
    copyCase("corpus/z2-fp32-twogroups");
  }

  private void editState(Consumer<PickledValue> change) throws IOException {
    edit(RANK_2, root -> change.accept(root.get("optimizer_state_dict")));
  }

  private static void setItem(PickledValue list, int index, long number) {
    ((PyList) list.node()).items().set(index, PyInt.of(number));
  }

  @Test
  void anEditThatChangesNothingIsNotRefused() throws IOException {
    byte[] before = Files.readAllBytes(file(RANK_2));
    edit(RANK_2, root -> {});

    assertThat(Files.readAllBytes(file(RANK_2))).isEqualTo(before);
    assertThat(plan(3).targets()).hasSize(4);
  }

  @Test
  void missingRanksAreNamed() throws IOException {
    Files.delete(file(RANK_2));

    assertRefused(3)
        .hasMessageContaining("dp_world_size 4")
        .hasMessageContaining("optimizer files of ranks [2] are missing (" + RANK_2 + ")")
        .hasMessageContaining("copy the files of all nodes into one directory");
  }

  @Test
  void expertsOfAutoEpAreNotRead() throws IOException {
    edit(MODEL, root -> root.entries().add(new PyStr("ds_autoep_layers"), new PyList()));

    assertRefused(3)
        .hasMessageContaining(MODEL)
        .hasMessageContaining("a checkpoint of AutoEP experts, which is not supported")
        .hasMessageContaining("Save it from a run without expert parallelism");
  }

  @Test
  void aRunWithoutAutoEpSaysNone() throws IOException {
    edit(MODEL, root -> root.entries().add(new PyStr("ds_autoep_layers"), PyNone.NONE));

    assertThat(plan(3).targets()).hasSize(4);
  }

  @Test
  void optimizersOnNvmeAreNotRead() throws IOException {
    Files.createDirectories(file("offloaded_tensors"));
    Files.writeString(file("offloaded_tensors/0.swp"), "elements");

    assertRefused(3)
        .hasMessageContaining("has the directory offloaded_tensors")
        .hasMessageContaining("Load the checkpoint once with offload_optimizer on cpu");
  }

  @Test
  void extraRanksAreNamed() throws IOException {
    Files.copy(file(RANK_2), file("zero_pp_rank_4_mp_rank_00_optim_states.pt"));

    assertRefused(3)
        .hasMessageContaining("zero_pp_rank_4_mp_rank_00_optim_states.pt: is a file too many")
        .hasMessageContaining("this file says it is of 4");
  }

  @Test
  void theFilesOfOneNodeAreNotTakenForAll() throws IOException {
    for (int rank : new int[] {2, 3}) {
      Files.delete(file("zero_pp_rank_" + rank + "_mp_rank_00_optim_states.pt"));
    }

    assertRefused(3)
        .hasMessageContaining("optimizer files of ranks [2, 3] are missing")
        .hasMessageContaining(RANK_2 + ", zero_pp_rank_3_mp_rank_00_optim_states.pt")
        .hasMessageContaining("If nodes wrote to disks of their own");
  }

  @Test
  void withoutZeroThereIsNothingToReshard() throws IOException {
    for (int rank = 0; rank < 4; rank++) {
      Files.delete(file("zero_pp_rank_" + rank + "_mp_rank_00_optim_states.pt"));
    }
    assertRefused(3).hasMessageContaining("has model files and no optimizer files");

    edit(MODEL, root -> root.entries().replace("optimizer", new PyDict()));

    assertRefused(3)
        .hasMessageContaining(MODEL)
        .hasMessageContaining("ZeRO was off (stage 0)")
        .hasMessageContaining("DeepSpeed loads this checkpoint at any number");
  }

  @Test
  void whatOnlyAConfigurationTellsIsRefusedAtEveryStage() throws IOException {
    edit(
        MODEL,
        root ->
            root.get("ds_config")
                .get("zero_optimization")
                .entries()
                .add(new PyStr("zenflow"), new PyDict()));

    assertRefused(3)
        .hasMessageContaining("ds_config.zero_optimization.zenflow")
        .hasMessageContaining("checkpoints of ZenFlow are not supported");
  }

  @Test
  void aGitLfsPointerIsNamed() throws IOException {
    Files.writeString(
        file(RANK_2),
        "version https://git-lfs.github.com/spec/v1\noid sha256:"
            + "0".repeat(64)
            + "\nsize 12345\n");

    assertRefused(3).hasMessageContaining(RANK_2).hasMessageContaining("git lfs pull");
  }

  @Test
  void aModelFileWithoutItsShardsIsRefused() throws IOException {
    Files.copy(file(MODEL), file("mp_rank_01_model_states.pt"));

    assertRefused(3).hasMessageContaining("mp ranks [0, 1], optimizer files of [0]");
  }

  @Test
  void anotherPartitionCountIsRefused() throws IOException {
    editState(state -> setItem(state.get("partition_count"), 1, 3));

    assertRefused(3)
        .hasMessageContaining(RANK_2)
        .hasMessageContaining("partition_count: expected [4, 4]")
        .hasMessageContaining("found [4, 3]");
  }

  @Test
  void otherGroupPaddingsAreRefused() throws IOException {
    editState(state -> setItem(state.get("group_paddings"), 0, 5));

    assertRefused(3)
        .hasMessageContaining(RANK_2)
        .hasMessageContaining("group_paddings: expected [0, 0]")
        .hasMessageContaining("found [5, 0]");
  }

  @Test
  void otherSliceMappingsAreRefused() throws IOException {
    editState(
        state -> {
          PickledValue mapping = state.get("param_slice_mappings").items().get(0);
          PyInstance address = (PyInstance) mapping.children().get(0).value().node();
          ((PyDict) address.state()).entries().replace("numel", PyInt.of(1));
        });

    assertRefused(3)
        .hasMessageContaining(RANK_2)
        .hasMessageContaining("param_slice_mappings[0]")
        .hasMessageContaining("numel=1.");
  }

  @Test
  void aShardOfAnotherStepIsRefused() throws IOException {
    EditedTorchFile shard = new EditedTorchFile(file(RANK_2));
    TensorNode step =
        shard
            .root()
            .get("optimizer_state_dict")
            .get("base_optimizer_state")
            .get("state")
            .children()
            .get(0)
            .value()
            .get("step")
            .tensor();
    shard.storage(step.storageKey()).putFloat(0, 4f);
    shard.write();

    assertRefused(3)
        .hasMessageContaining(RANK_2)
        .hasMessageContaining("is 4.0 on rank 2 and 3.0 on the first rank")
        .hasMessageContaining("different steps");
  }

  @Test
  void otherHyperParametersAreRefused() throws IOException {
    editState(
        state ->
            state
                .get("base_optimizer_state")
                .get("param_groups")
                .items()
                .get(1)
                .entries()
                .replace("lr", new PyFloat(0.5)));

    assertRefused(3)
        .hasMessageContaining(RANK_2)
        .hasMessageContaining("param_groups[1].lr: 0.02 vs 0.5");
  }

  @Test
  void aMissingStateIsRefused() throws IOException {
    editState(
        state ->
            state
                .get("base_optimizer_state")
                .get("state")
                .children()
                .get(1)
                .value()
                .entries()
                .list()
                .removeIf(e -> ((PyStr) e.key()).value().equals("exp_avg_sq")));

    assertRefused(3)
        .hasMessageContaining(RANK_2)
        .hasMessageContaining("param group 1 has the states");
  }

  @Test
  void stateOfAnotherLengthIsRefused() throws IOException {
    editState(
        state -> {
          TensorNode moment =
              state
                  .get("base_optimizer_state")
                  .get("state")
                  .children()
                  .get(0)
                  .value()
                  .get("exp_avg")
                  .tensor();
          moment.setGeometry(0, 7);
        });

    assertRefused(3)
        .hasMessageContaining(RANK_2)
        .hasMessageContaining("exp_avg")
        .hasMessageContaining("found a tensor of shape [7]");
  }

  @Test
  void aMissingKeyIsNamed() throws IOException {
    editState(
        state ->
            state
                .entries()
                .list()
                .removeIf(e -> ((PyStr) e.key()).value().equals("partition_count")));

    assertRefused(3)
        .hasMessageContaining(RANK_2 + ", optimizer_state_dict")
        .hasMessageContaining("expected the key 'partition_count'");
  }

  @Test
  void anotherStageIsRefused() throws IOException {
    editState(state -> state.entries().replace("zero_stage", PyInt.of(3)));

    assertRefused(3).hasMessageContaining(RANK_2).hasMessageContaining("zero_stage is 3");
  }

  @Test
  void anotherShapeIsRefused() throws IOException {
    edit(
        MODEL,
        root -> {
          List<PickledValue.Entry> module = root.get("module").children();
          for (PickledValue.Entry entry : module) {
            if (entry.key().equals("blocks.0.fc.weight")) {
              entry.value().tensor().setGeometry(0, 13, 40);
            }
          }
        });

    assertRefused(3)
        .hasMessageContaining("module.blocks.0.fc.weight")
        .hasMessageContaining("[13, 40], param_shapes says [40, 13]");
  }

  @Test
  void aShardOfAnotherModelIsRefused() throws IOException {
    Path foreign = Corpus.ROOT.resolve("z2-elastic/source").resolve(TAG).resolve(RANK_2);
    Files.delete(file(RANK_2));
    Files.copy(foreign, file(RANK_2));

    assertRefused(3).hasMessageContaining(RANK_2);
  }

  /** One rank has the same order with round_robin_gradients and without, two do not. */
  @Test
  void anOrderThatOneRankDoesNotTellIsRefused() {
    Path one = directory.resolve("one");
    WithoutBeam.reshard(directory, one, 1);
    for (Path checkpoint : List.of(directory, one)) {
      Scratch.edit(
          checkpoint.resolve(TAG).resolve(MODEL),
          root -> ((PyDict) root).entries().replace("ds_config", new PyStr("ds.json")));
    }

    assertThatThrownBy(() -> WithoutBeam.reshard(one, directory.resolve("two"), 2))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(MODEL)
        .hasMessageContaining("on 1 rank the parameters lie the same with round_robin_gradients");
    WithoutBeam.reshard(one, directory.resolve("again"), 1);
    // The mappings of four ranks tell it.
    WithoutBeam.reshard(directory, directory.resolve("three"), 3);
  }
}
