package io.github.reshard.pipeline;

import static io.github.reshard.pipeline.Scratch.MODEL;
import static io.github.reshard.pipeline.Scratch.TAG;
import static io.github.reshard.pipeline.Scratch.shard;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.ReshardPlanner;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Damaged, inconsistent and malicious checkpoints through the whole job. Unreadable files are a
 * matter of {@code scripts/faults}, which gives up the right to read everything.
 */
@Timeout(120)
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
            "a rank is missing",
            tag -> Files.delete(tag.resolve(shard(3))),
            "dp_world_size 6",
            "[3] are missing"),
        damage(
            "a rank too many",
            tag -> Files.copy(tag.resolve(shard(5)), tag.resolve(shard(6))),
            "dp_world_size 6",
            shard(6),
            "is a file too many"),
        damage(
            "two files of one rank",
            tag ->
                Files.copy(
                    tag.resolve(shard(1)), tag.resolve(shard(1).substring("bf16_".length()))),
            "the same rank"),
        damage(
            "two ranks are swapped",
            tag -> {
              Files.move(tag.resolve(shard(1)), tag.resolve("x"));
              Files.move(tag.resolve(shard(2)), tag.resolve(shard(1)));
              Files.move(tag.resolve("x"), tag.resolve(shard(2)));
            },
            "rank_1",
            "expected"),
        damage(
            "a rank is there twice",
            tag -> {
              Files.delete(tag.resolve(shard(4)));
              Files.copy(tag.resolve(shard(3)), tag.resolve(shard(4)));
            },
            "rank_4",
            "expected"),
        damage(
            "no model file", tag -> Files.delete(tag.resolve(MODEL)), "mp_rank_*_model_states.pt"),
        damage(
            "another partition_count",
            tag ->
                edit(
                    tag.resolve(shard(2)),
                    root ->
                        at(root, "optimizer_state_dict")
                            .replace("partition_count", PyList.of(List.of(PyInt.of(5))))),
            "partition_count",
            "expected [6]",
            "found [5]"),
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
            "another step on one rank",
            tag ->
                Scratch.rewrite(
                    tag.resolve(shard(2)),
                    root -> {},
                    (key, bytes) -> bytes[2] ^= (byte) (bytes.length == 4 ? 0x40 : 0)),
            "rank 2 and the first rank",
            "float32 []",
            "3.0 on the first rank"),
        damage(
            "another learning rate on one rank",
            tag ->
                edit(
                    tag.resolve(shard(5)),
                    root ->
                        ((PyDict)
                                ((PyList)
                                        at(root, "optimizer_state_dict", "base_optimizer_state")
                                            .get("param_groups"))
                                    .get(0))
                            .entries()
                            .replace("lr", PyInt.of(7))),
            "rank 5 and the first rank",
            "lr",
            "7"),
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
            "a partition of another length",
            tag -> edit(tag.resolve(shard(0)), root -> tensors(root).get(1).setGeometry(0, 17)),
            "expected the 530 elements"),
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
            "a latest that is a whole file",
            tag -> Files.write(tag.resolveSibling("latest"), new byte[1 << 20]),
            "expected the name of a tag"),
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
  void isRefusedByNameAndLeavesNothing(String name, Damage damage, List<String> message)
      throws IOException {
    damage.to(input.resolve(TAG));
    Map<String, String> before = Scratch.contents(input);

    assertThat(Scratch.refusal(input, output, 4)).contains(message);

    assertThat(Scratch.contents(output)).isEmpty();
    assertThat(Scratch.contents(input)).isEqualTo(before);
  }

  @Test
  void aFlippedBitIsFoundWithItsFileItsEntryAndItsParameters() throws IOException {
    TorchFile shard = Scratch.read(file(shard(3)));
    for (TorchFile.Entry entry : shard.entries()) {
      if (!entry.name().startsWith("data/") || entry.bytes() < 100) {
        continue;
      }
      Path fresh = scratch.resolve("flipped-" + entry.name().replace('/', '-'));
      Scratch.copyOf(Scratch.source(), fresh);
      Path damaged = fresh.resolve(TAG).resolve(shard(3));
      byte[] bytes = Files.readAllBytes(damaged);
      bytes[(int) entry.payloadOffset() + 57] ^= 0x01;
      Files.write(damaged, bytes);

      String refusal = Scratch.refusal(fresh, output, 2);

      // The masters may be found by what they should give before the checksum is complete.
      assertThat(refusal)
          .satisfiesAnyOf(
              text ->
                  assertThat(text)
                      .contains(shard(3), "entry " + entry.name(), "CRC-32")
                      .contains("blocks.1.fc.weight (mp rank 0)", "blocks.1.ln.bias"),
              text -> assertThat(text).contains("of the master weights"));
      assertThat(Scratch.contents(output)).isEmpty();
    }
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

  @Test
  void aCallableInAPickleIsDataAndIsCarriedOver() throws IOException {
    Path sign = scratch.resolve("executed");
    Scratch.edit(
        file(MODEL),
        root ->
            at(root)
                .add(
                    new PyStr("mine"),
                    PyInstance.reduce(
                        new PyGlobal("os", "system"),
                        PyTuple.of(new PyStr("touch " + sign.toAbsolutePath())))));

    Resharding.run(Resharding.options(input, output, 6));
    CommandOptions options = Resharding.options(input, output, 6).as(CommandOptions.class);
    Inspection inspection = Inspection.of(options);

    assertThat(sign).doesNotExist();
    assertThat(inspection.facts().modelValues().get("mine")).contains("os.system", "touch");
    assertThat(output.resolve(TAG).resolve(MODEL)).hasSameBinaryContentAs(file(MODEL));
  }

  @Test
  void aBombOfSharedListsTakesBoundedTimeAndMemory() {
    PyObject bomb = new PyStr("x");
    for (int level = 0; level < 40; level++) {
      List<PyObject> wide = new ArrayList<>();
      for (int i = 0; i < 40; i++) {
        wide.add(bomb);
      }
      bomb = PyList.of(wide);
    }
    PyObject made = bomb;
    Scratch.edit(file(MODEL), root -> at(root).add(new PyStr("bomb"), made));

    Resharding.run(Resharding.options(input, output, 6));
    CommandOptions options = Resharding.options(input, output, 6).as(CommandOptions.class);

    assertThat(Inspection.of(options).json()).hasSizeLessThan(10 << 20);
    assertThat(output.resolve(TAG).resolve(MODEL)).hasSameBinaryContentAs(file(MODEL));
  }

  @Test
  void trustedMastersAreListedInTheManifest() {
    Scratch.rewrite(
        file(shard(1)),
        root -> {},
        (key, bytes) -> {
          if (key.equals("3")) {
            bytes[403] ^= 1;
          }
        });
    ReshardOptions options = Resharding.options(input, output, 2);
    options.setTrustMasters(true);

    ReshardReport report = Resharding.run(options);

    assertThat(report.notes()).anyMatch(note -> note.contains("--trustMasters"));
    assertThat(report.proven()).anyMatch(text -> text.contains("weights of 11 parameters"));
    try {
      assertThat(
              Files.readString(output.resolve(TAG).resolve(CheckpointFiles.MANIFEST))
                  .replaceAll("\\s+", " "))
          .containsSubsequence(
              "\"disagreed\" : [ { \"name\" : \"blocks.0.fc.weight\"", "\"element\" : ");
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
