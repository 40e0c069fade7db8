package io.github.reshard.checkpoint.deepspeed;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.GraphCopy;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.ReshardPlanner;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.testing.Corpus;
import io.github.reshard.testing.EditedTorchFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.assertj.core.api.AbstractThrowableAssert;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Optimizer state that is deeper, of a rank alone, or not one number for each weight. */
class StateTensorsTest {
  private static final String QUANT = "__bnb_optimizer_quant_state__";

  @TempDir Path directory;

  private void copy(String name) throws IOException {
    Path source = Corpus.ROOT.resolveSibling("field").resolve(name).resolve("source");
    try (Stream<Path> files = Files.walk(source)) {
      for (Path file : files.filter(Files::isRegularFile).toList()) {
        Path to = directory.resolve(source.relativize(file).toString());
        Files.createDirectories(to.getParent());
        Files.copy(file, to);
      }
    }
  }

  private ReshardPlan plan() throws IOException {
    LocalSourceStore store = new LocalSourceStore();
    return ReshardPlanner.plan(
        store, CheckpointFiles.discover(store, directory.toString(), Optional.empty()), 3, 1 << 20);
  }

  private void edit(int rank, Consumer<PickledValue> change) throws IOException {
    EditedTorchFile file =
        new EditedTorchFile(
            directory.resolve("global_step3/zero_pp_rank_" + rank + "_mp_rank_00_optim_states.pt"));
    change.accept(file.root().get("optimizer_state_dict").get("base_optimizer_state"));
    file.write();
  }

  private void editState(Consumer<PickledValue> change) throws IOException {
    edit(0, base -> change.accept(base.get("state").children().get(0).value().get(QUANT)));
  }

  private AbstractThrowableAssert<?, ? extends Throwable> assertRefused() {
    return assertThatThrownBy(this::plan).isInstanceOf(RefusedException.class);
  }

  @Test
  void tensorsOneLevelDeeperArePartitioned() throws IOException {
    for (String name : new String[] {"bitsandbytes-32bit-from-1", "bitsandbytes-32bit"}) {
      copy(name);

      assertThat(plan().models().get(0).states().get(0))
          .containsOnlyKeys(QUANT + ".state1", QUANT + ".state2", "fp32");

      try (Stream<Path> files = Files.list(directory.resolve("global_step3"))) {
        for (Path file : files.toList()) {
          Files.delete(file);
        }
      }
      Files.delete(directory.resolve("latest"));
    }
  }

  @Test
  void atOneRankTooATensorOfAnotherLengthIsRefused() throws IOException {
    copy("bitsandbytes-32bit-from-1");
    editState(state -> state.get("state2").tensor().setGeometry(0, 5));

    assertRefused()
        .hasMessageContaining("state[0]." + QUANT + ".state2")
        .hasMessageContaining("expected the 3174 elements")
        .hasMessageContaining("found a tensor of shape [5]");
  }

  @Test
  void codesOfAQuantisedStateAreRefusedAlthoughThereIsOneForEachWeight() throws IOException {
    copy("bitsandbytes-32bit-from-1");
    editState(
        state -> {
          TensorNode tensor = state.get("state1").tensor();
          StorageNode old = tensor.storage();
          tensor.setStorage(
              StorageNode.create(
                  new PyGlobal("torch", "ByteStorage"),
                  old.keyNode(),
                  old.location(),
                  old.bytes()));
        });

    assertRefused()
        .hasMessageContaining(QUANT + ".state1")
        .hasMessageContaining("is of type uint8, in which quantised states are saved");
  }

  @Test
  void whatWrapsTensorsIsRefused() throws IOException {
    copy("bitsandbytes-32bit-from-1");
    editState(
        state ->
            state
                .entries()
                .replace(
                    "state1",
                    PyInstance.reduce(
                        new PyGlobal("torchao.optim.subclass_8bit", "OptimState8bit"),
                        PyTuple.of(state.get("state1").node()))));

    assertRefused()
        .hasMessageContaining(QUANT + ".state1")
        .hasMessageContaining("torchao.optim.subclass_8bit.OptimState8bit that holds 1 tensors");
  }

  @Test
  void aTensorBesideTheStateIsRefused() throws IOException {
    copy("bitsandbytes-32bit-from-1");
    edit(
        0,
        base -> {
          PickledValue group = base.get("param_groups").items().get(0);
          PyInstance tensor =
              (PyInstance)
                  GraphCopy.of(
                      base.get("state").children().get(0).value().get(QUANT).get("state1").node());
          TensorNode node = TensorNode.of(tensor).orElseThrow();
          node.setStorage(node.storage().with(new PyStr("unheard-of"), 3174));
          group.entries().add(new PyStr("d_hat"), tensor);
        });

    assertRefused()
        .hasMessageContaining("d_hat is a tensor of float32 [3174]")
        .hasMessageContaining("no partition and no single value");
  }

  @Test
  void whatARankComputesAnewIsCarriedWithANote() throws IOException {
    copy("adafactor-z2");

    assertThat(plan().notes())
        .anyMatch(note -> note.contains("RMS, which each rank computes anew before it uses it"));
  }

  @Test
  void aStepThatDiffersIsAnotherStep() throws IOException {
    copy("adafactor-z2");
    edit(
        1,
        base -> {
          PickledValue state = base.get("state").children().get(0).value();
          state.entries().replace("step", new PyFloat(9));
        });

    assertRefused()
        .hasMessageContaining("step")
        .hasMessageContaining("The shards are of different steps or runs.");
  }

  @Test
  void whatAnOptimizerAdaptsOnEachRankIsRefusedForThatReason() throws IOException {
    copy("adafactor-z2");
    for (int rank = 0; rank < 2; rank++) {
      PyFloat d = new PyFloat(1e-6 * (rank + 1));
      edit(rank, base -> base.get("param_groups").items().get(0).entries().add(new PyStr("d"), d));
    }

    assertRefused()
        .hasMessageContaining("param_groups[0].d")
        .hasMessageContaining("as Prodigy and D-Adaptation do with d");
  }
}
