package io.github.reshard.checkpoint.planner;

import static io.github.reshard.testing.Scratch.MODEL;
import static io.github.reshard.testing.Scratch.TAG;
import static io.github.reshard.testing.Scratch.shard;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.TorchContent;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** Damaged, inconsistent and malicious checkpoints, of which no other test has the damage. */
class HostileCheckpointTest {
  @TempDir Path scratch;
  private Path input;
  private Path output;

  @BeforeEach
  void copy() {
    input = Scratch.copyOf(Scratch.source(), scratch.resolve("input"));
    output = scratch.resolve("output");
  }

  private Path file(String name) {
    return input.resolve(TAG).resolve(name);
  }

  private interface Damage {
    void to(Path tag) throws IOException;
  }

  private static Arguments damage(String name, Damage damage, String... message) {
    return arguments(name, damage, List.of(message));
  }

  static Stream<Arguments> damages() {
    return Stream.of(
        damage(
            "an edited weight",
            tag -> {
              TensorNode weight =
                  TorchContent.read(tag.resolve(MODEL)).tensors().get("module.blocks.1.fc.weight");
              Scratch.change(
                  tag.resolve(MODEL),
                  weight.storageKey(),
                  bytes -> bytes.put(2 * ((int) weight.storageOffset() + 17), (byte) 77));
            },
            "blocks.1.fc.weight",
            "element 17 "),
        damage(
            "no model file", tag -> Files.delete(tag.resolve(MODEL)), "mp_rank_*_model_states.pt"),
        damage(
            "another dp_world_size",
            tag -> edit(tag.resolve(MODEL), root -> at(root).replace("dp_world_size", PyInt.of(4))),
            "group_paddings: expected [2] from the model file's shapes and dp_world_size",
            "found [0]"),
        damage(
            "a world size beyond all reason",
            tag ->
                edit(
                    tag.resolve(MODEL),
                    root -> at(root).replace("dp_world_size", PyInt.of(Integer.MAX_VALUE))),
            "dp_world_size"),
        damage(
            "a negative world size",
            tag ->
                edit(tag.resolve(MODEL), root -> at(root).replace("dp_world_size", PyInt.of(-1))),
            "dp_world_size"),
        damage(
            "masters of another step, with sound CRCs",
            tag ->
                Scratch.rewrite(
                    tag.resolve(shard(1)),
                    root -> {},
                    (key, bytes) -> {
                      if (key.equals("3")) {
                        bytes[403] ^= 1;
                      }
                    }),
            "element 123 of the master weights",
            "blocks.0.fc.weight",
            "--trustMasters"),
        damage(
            "a storage shorter than its tensor",
            tag ->
                edit(tag.resolve(shard(0)), root -> tensors(root).get(1).setGeometry(0, 100_000)),
            "exp_avg",
            "100000"),
        damage(
            "an offset out of range",
            tag ->
                edit(tag.resolve(shard(0)), root -> tensors(root).get(1).setGeometry(1 << 20, 530)),
            "storage"),
        damage(
            "a negative dimension",
            tag -> edit(tag.resolve(MODEL), root -> setFirstShape(root, -37, 13)),
            "at least 0, found -37"),
        damage(
            "an overflowing shape",
            tag -> edit(tag.resolve(MODEL), root -> setFirstShape(root, 1L << 40, 1L << 40)),
            "more than 2^59 elements"),
        damage(
            "a shape that is too large",
            tag -> edit(tag.resolve(MODEL), root -> setFirstShape(root, 1L << 40, 13)),
            "group_paddings: expected [3]",
            "found [6]"),
        damage(
            "a latest that climbs",
            tag -> Files.writeString(tag.resolveSibling("latest"), "../.."),
            "'latest' names the tag '../..'"),
        damage(
            "a link to nowhere",
            tag -> {
              Files.delete(tag.resolve(shard(0)));
              Files.createSymbolicLink(tag.resolve(shard(0)), Path.of("nowhere"));
            },
            shard(0),
            "link to nowhere"),
        damage(
            "a link to a directory above",
            tag -> Files.createSymbolicLink(tag.resolve("again"), Path.of("..")),
            "again",
            "it lies in"));
  }

  private static PyEntries at(PyObject root, String... way) {
    PyObject node = root;
    for (String key : way) {
      node = ((PyDict) node).get(key);
    }
    return ((PyDict) node).entries();
  }

  private static void edit(Path file, Consumer<PyObject> change) {
    Scratch.edit(file, change);
  }

  private static List<TensorNode> tensors(PyObject root) {
    List<TensorNode> tensors = new ArrayList<>();
    PyDict state =
        (PyDict)
            at(root, "optimizer_state_dict", "base_optimizer_state", "state").list().get(0).value();
    state.entries().forEach(entry -> tensors.add(TensorNode.of(entry.value()).orElseThrow()));
    return tensors;
  }

  private static void setFirstShape(PyObject root, long... dimensions) {
    PyInstance group = (PyInstance) ((PyList) ((PyDict) root).get("param_shapes")).get(0);
    PyInstance size = (PyInstance) group.dictItems().list().get(0).value();
    List<PyObject> items = new ArrayList<>();
    for (long dimension : dimensions) {
      items.add(PyInt.of(dimension));
    }
    size.setArgs(PyTuple.of(new PyTuple(items)));
  }

  @ParameterizedTest(name = "{0}")
  @MethodSource("damages")
  void isRefusedByName(String name, Damage damage, List<String> message) throws IOException {
    damage.to(input.resolve(TAG));

    assertThatThrownBy(() -> WithoutBeam.reshard(input, output, 4))
        .isInstanceOf(RefusedException.class)
        .message()
        .contains(message);
    assertThat(output.resolve("latest")).doesNotExist();
  }

  @Test
  void aFileCutOffAtAnyBoundaryOfItsStructureIsRefused() throws IOException {
    int cuts = 0;
    for (String name : List.of(shard(0), MODEL)) {
      byte[] whole = Files.readAllBytes(file(name));
      List<Long> boundaries = new ArrayList<>(List.of(0L, 1L, (long) whole.length - 1));
      for (TorchFile.Entry entry : Scratch.read(file(name)).entries()) {
        for (long boundary :
            List.of(
                entry.headerOffset(),
                entry.headerOffset() + 30,
                entry.payloadOffset(),
                entry.payloadOffset() + entry.bytes(),
                entry.payloadOffset() + entry.bytes() + 24)) {
          boundaries.add(boundary - 1);
          boundaries.add(boundary);
        }
      }
      for (int at = whole.length - 22 - 20 - 56; at > 0 && at < whole.length; at += 1) {
        boundaries.add((long) at);
      }
      for (long boundary : boundaries) {
        if (boundary < 0 || boundary >= whole.length) {
          continue;
        }
        Files.write(file(name), java.util.Arrays.copyOf(whole, (int) boundary));
        assertThatThrownBy(this::plan)
            .as("%s cut off at byte %d", name, boundary)
            .isInstanceOf(RefusedException.class)
            .hasMessageContaining(name);
        cuts++;
      }
      Files.write(file(name), whole);
    }
    System.out.printf("truncation: %d cuts refused%n", cuts);
    assertThat(plan().targetWorldSize()).isEqualTo(4);
  }

  private ReshardPlan plan() throws IOException {
    LocalSourceStore store = new LocalSourceStore();
    return ReshardPlanner.plan(
        store, CheckpointFiles.discover(store, input.toString(), Optional.empty()), 4, 1 << 20);
  }
}
