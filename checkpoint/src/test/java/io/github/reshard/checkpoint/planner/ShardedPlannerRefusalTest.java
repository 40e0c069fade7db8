package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.testing.EditedTorchFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.util.List;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;

/** What a ZeRO-3 checkpoint must not hold, one thing a test. */
class ShardedPlannerRefusalTest extends RefusalCase {
  private static final String MODEL = "zero_pp_rank_%d_mp_rank_00_model_states.pt";
  private static final String OPTIMIZER = "zero_pp_rank_%d_mp_rank_00_optim_states.pt";

  private void copy(String name) {
    copyCase("corpus/" + name);
  }

  private void edit(String name, int rank, Consumer<PickledValue> change) {
    edit(name.formatted(rank), change);
  }

  /** Says the same in the config of every model file of a case at 2 ranks. */
  private void configure(String key, PyObject value) throws IOException {
    for (int rank = 0; rank < 2; rank++) {
      edit(
          MODEL,
          rank,
          root -> {
            var zero = root.get("ds_config").get("zero_optimization").entries();
            zero.list().removeIf(e -> e.key() instanceof PyStr s && s.value().equals(key));
            zero.add(new PyStr(key), value);
          });
    }
  }

  private static PyDict device(String device) {
    PyDict offload = new PyDict();
    offload.entries().add(new PyStr("device"), new PyStr(device));
    return offload;
  }

  @Test
  void aMissingModelFileIsNamed() throws IOException {
    copy("z3-freeze-tie");
    Files.delete(directory.resolve(TAG).resolve(MODEL.formatted(1)));

    assertRefused(3).hasMessageContaining("the model files of ranks [1] are missing");
  }

  @Test
  void subGroupsOfAnotherSizeThanTheConfigSaysAreRefused() throws IOException {
    copy("z3-bf16-subgroups");
    configure("sub_group_size", PyInt.of(90));

    assertRefused(3).hasMessageContaining("not those that sub_group_size 90 makes at 2 ranks");
  }

  @Test
  void withoutAConfigASubGroupSizeThatIsNotCertainIsRefused() throws IOException {
    copy("z3-bf16-subgroups");
    for (int rank = 0; rank < 2; rank++) {
      edit(MODEL, rank, root -> root.entries().replace("ds_config", new PyStr("ds.json")));
    }

    assertThat(plan(2).notes()).anyMatch(note -> note.contains("every sub_group_size that fits"));
    assertRefused(1).hasMessageContaining("sub_group_size may be anything from");
  }

  @Test
  void micsIsRefusedByName() throws IOException {
    copy("z3-freeze-tie");
    configure("mics_shard_size", PyInt.of(2));

    assertRefused(3).hasMessageContaining("MiCS").hasMessageContaining("save it again");
  }

  @Test
  void anOptimizerOnNvmeIsRefusedByName() throws IOException {
    copy("z3-freeze-tie");
    configure("offload_optimizer", device("nvme"));

    assertRefused(3).hasMessageContaining("NVMe").hasMessageContaining("offload_optimizer on cpu");
  }

  @Test
  void anOptimizerOnNvmeIsRefusedByItsEmptyTensorsToo() throws IOException {
    copy("z3-freeze-tie");
    edit(
        OPTIMIZER,
        1,
        root ->
            root.get("optimizer_state_dict")
                .get("fp32_flat_groups")
                .items()
                .get(0)
                .tensor()
                .setGeometry(0, 0));

    assertRefused(3).hasMessageContaining("offloaded to NVMe");
  }

  @Test
  void frozenParametersOnNvmeAreRefused() throws IOException {
    copy("z3-freeze-tie");
    configure("offload_param", device("nvme"));

    assertRefused(3).hasMessageContaining("some are frozen");
  }

  @Test
  void quantizedFrozenParametersAreRefused() throws IOException {
    copy("z3-freeze-tie");
    edit(
        MODEL,
        0,
        root -> {
          for (PickledValue.Entry entry : root.get("module").children()) {
            if (entry.key().equals("blocks.0.fc.weight")) {
              TensorNode weight = entry.value().tensor();
              weight.setStorage(
                  StorageNode.create(
                      new PyGlobal("torch", "HalfStorage"),
                      weight.storage().keyNode(),
                      weight.storage().location(),
                      0));
            }
          }
        });

    assertRefused(3).hasMessageContaining("quantized").hasMessageContaining("blocks.0.fc.weight");
  }

  @Test
  void zenFlowIsRefusedByName() throws IOException {
    copy("z3-freeze-tie");
    configure("zenflow", new PyDict());

    assertRefused(3).hasMessageContaining("ZenFlow");
  }

  @Test
  void anHpzSizeThatDoesNotDivideTheRanksIsNoted() throws IOException {
    copy("z3-freeze-tie");
    configure("zero_hpz_partition_size", PyInt.of(2));

    assertThat(plan(3).notes()).anyMatch(note -> note.contains("does not divide 3 ranks"));
    assertThat(plan(4).notes()).noneMatch(note -> note.contains("does not divide"));
  }

  @Test
  void modelFilesOfDifferentStepsAreRefused() throws IOException {
    copy("z3-freeze-tie");
    edit(MODEL, 1, root -> root.entries().replace("global_steps", PyInt.of(4)));

    assertRefused(3).hasMessageContaining("global_steps differs");
  }

  @Test
  void clientStateOfARankIsKeptAndSaidToDiffer() throws IOException {
    copy("z3-freeze-tie");
    edit(MODEL, 1, root -> root.entries().add(new PyStr("seed"), PyInt.of(4)));

    assertThat(plan(3).notes())
        .anyMatch(note -> note.contains("seed (ranks [1])") && note.contains("rank 0's"));
  }

  @Test
  void stateThatSubGroupsDoNotShareIsRefusedWhereTheirBoundariesMove() throws IOException {
    copy("z3-bf16-subgroups");
    String name = "bf16_" + OPTIMIZER;
    for (int rank = 0; rank < 2; rank++) {
      EditedTorchFile file =
          new EditedTorchFile(directory.resolve(TAG).resolve(name.formatted(rank)));
      PickledValue inner = file.root().get("optimizer_state_dict").get("optimizer_state_dict");
      PyList params = (PyList) inner.get("param_groups").items().get(0).get("params").node();
      long second = ((PyInt) params.get(1)).value().longValueExact();
      PickledValue state = new PickledValue("", "", inner.get("state").entries().get(second));
      file.storage(state.get("step").tensor().storageKey()).putFloat(0, 99);
      file.write();
    }

    assertRefused(1).hasMessageContaining("differs from that of sub-group 0");
    assertThat(plan(2).targets()).hasSize(4);
  }

  @Test
  void superOffloadIsRefusedByName() throws IOException {
    copy("z3-freeze-tie");
    PyDict offload = device("cpu");
    offload.entries().add(new PyStr("super_offload"), PyBool.TRUE);
    configure("offload_optimizer", offload);

    assertRefused(3).hasMessageContaining("SuperOffload");
  }

  @Test
  void aFrozenParameterThatEveryRankHasWholeStaysWhole() throws IOException {
    copy("z3-freeze-tie");
    for (int rank = 0; rank < 2; rank++) {
      EditedTorchFile file =
          new EditedTorchFile(directory.resolve(TAG).resolve(MODEL.formatted(rank)));
      for (String dict : List.of("module", "frozen_param_fragments")) {
        TensorNode tensor = file.root().get(dict).get("blocks.0.ln.bias").tensor();
        file.setStorage(tensor.storageKey(), ByteBuffer.allocate(13 * 4));
        tensor.setStorage(tensor.storage().with(tensor.storage().keyNode(), 13));
        tensor.setGeometry(0, 13);
      }
      file.write();
    }

    ReshardPlan plan = plan(3);

    assertThat(plan.models().get(1).parameters())
        .extracting(Parameter::name)
        .containsExactly("blocks.0.fc.weight");
    assertThat(plan.targets())
        .filteredOn(file -> file.path().endsWith("model_states.pt"))
        .hasSize(3)
        .allSatisfy(
            file ->
                assertThat(file.entries())
                    .extracting(TargetFile.Entry::bytes)
                    .containsOnlyOnce((520 + 2) / 3 * 4L)
                    .filteredOn(bytes -> bytes == 13 * 4)
                    .hasSize(2));
  }

  @Test
  void muonIsRefusedByName() throws IOException {
    copy("z3-freeze-tie");
    PyDict optimizer = new PyDict();
    optimizer.entries().add(new PyStr("type"), new PyStr("Muon"));
    for (int rank = 0; rank < 2; rank++) {
      edit(
          MODEL,
          rank,
          root -> root.get("ds_config").entries().add(new PyStr("optimizer"), optimizer));
    }

    assertRefused(3).hasMessageContaining("Muon");
  }
}
