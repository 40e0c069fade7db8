package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyPersistentId;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.TorchContent;
import io.github.reshard.testing.TorchContentViews;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Tensors that show elements of what DeepSpeed partitions, beside the parameters themselves: in the
 * module, as a {@code state_dict} hook puts them there, and in the user's own state.
 */
class ViewsTest {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));
  private static final String TAG = "global_step3";
  private static final String MINE = "mine";
  private static final PyGlobal REBUILD = new PyGlobal("torch._utils", "_rebuild_tensor_v2");

  @TempDir Path temp;

  static Stream<Arguments> cases() {
    return Stream.of(
            "field/view-in-module-z2",
            "field/view-in-client-state-z2",
            "field/extra-state-z2",
            "field/qlora-z2",
            "corpus/z2-roundrobin",
            "corpus/z2-fp32-twogroups",
            "corpus/z2-bf16-clip",
            "corpus/z2-freeze-tie")
        .flatMap(name -> Stream.of(1, 2, 3, 7).map(ranks -> arguments(name, ranks)));
  }

  private static Path model(Path checkpoint) {
    return checkpoint.resolve(TAG).resolve(Scratch.MODEL);
  }

  /** A copy of a checkpoint to whose model file views of every kind were added. */
  private Path withViews(String name) {
    Path input = Scratch.copyOf(TESTDATA.resolve(name).resolve("source"), temp.resolve("input"));
    Scratch.edit(model(input), root -> addViews((PyDict) root));
    return input;
  }

  private static void addViews(PyDict root) {
    PyDict mine = new PyDict();
    Set<String> seen = new HashSet<>();
    TorchContentViews.tensors(root.get("module"))
        .forEach(
            (name, tensor) -> {
              StorageNode storage = tensor.storage();
              if (seen.add(storage.key()) && storage.elements() > 0) {
                addViews(storage, mine);
              }
            });
    root.entries().add(new PyStr(MINE), mine);
  }

  private static void addViews(StorageNode storage, PyDict into) {
    int elements = (int) storage.elements();
    List<PyInstance> views = new ArrayList<>();
    views.add(view(storage, 0, new long[] {elements}, new long[] {1}));
    views.add(view(storage, elements - 1, new long[] {}, new long[] {}));
    views.add(view(storage, elements, new long[] {0}, new long[] {1}));
    views.add(view(storage, 0, new long[] {3, 0}, new long[] {1, 1}));
    views.add(view(storage, elements / 2, new long[] {4, 2}, new long[] {0, 0}));
    Random random = new Random(elements);
    for (int i = 0; i < 40; i++) {
      int offset = random.nextInt(elements);
      long[] shape = new long[random.nextInt(4)];
      long[] stride = new long[shape.length];
      long last = offset;
      for (int d = 0; d < shape.length; d++) {
        stride[d] = random.nextInt(random.nextBoolean() ? 4 : 60);
        long most = stride[d] == 0 ? 3 : (elements - 1 - last) / stride[d] + 1;
        shape[d] = 1L + random.nextInt((int) Math.min(most, random.nextBoolean() ? 5 : 40));
        last += (shape[d] - 1) * stride[d];
      }
      views.add(view(storage, offset, shape, stride));
    }
    for (int i = 0; i < views.size(); i++) {
      into.entries().add(new PyStr("view " + i + " of " + storage.key()), views.get(i));
    }
  }

  private static PyInstance view(StorageNode storage, long offset, long[] shape, long[] stride) {
    return PyInstance.reduce(
        REBUILD,
        PyTuple.of(
            reference(storage),
            PyInt.of(offset),
            sizes(shape),
            sizes(stride),
            PyBool.FALSE,
            PyInstance.reduce(new PyGlobal("collections", "OrderedDict"), PyTuple.of())));
  }

  private static PyPersistentId reference(StorageNode storage) {
    return storage.with(storage.keyNode(), storage.elements());
  }

  private static PyTuple sizes(long[] sizes) {
    return new PyTuple(Arrays.stream(sizes).mapToObj(PyInt::of).toList());
  }

  /** What each tensor of a file shows, row by row. */
  private static Map<String, String> values(Path file, String... roots) {
    TorchContent content = TorchContent.read(file);
    Map<String, String> values = new LinkedHashMap<>();
    content
        .tensors()
        .forEach(
            (path, tensor) -> {
              if (Arrays.stream(roots).anyMatch(root -> path.startsWith(root + "."))) {
                values.put(path, TorchContentViews.values(content, tensor));
              }
            });
    return values;
  }

  @ParameterizedTest
  @MethodSource("cases")
  void everyViewKeepsItsValues(String name, int ranks) {
    Path input = withViews(name);
    Path output = temp.resolve("output");

    WithoutBeam.reshard(input, output, ranks);

    Map<String, String> before = values(model(input), "module", MINE, "head_view", "emb");
    assertThat(before).hasSizeGreaterThan(40);
    assertThat(values(model(output), "module", MINE, "head_view", "emb"))
        .containsExactlyEntriesOf(before);
  }

  @ParameterizedTest
  @MethodSource("cases")
  void atStage3OnlyParametersArePlaceholdersAndTheRestKeepsItsValues(String name, int ranks) {
    Path input = withViews(name);
    Path output = temp.resolve("output");

    WithoutBeam.reshard(input, output, ranks, 3);

    TorchContent source = TorchContent.read(model(input));
    Set<String> parameters = new HashSet<>();
    for (PyObject group : ((PyList) source.at("param_shapes")).items()) {
      TorchContent.entries(group).forEach(e -> parameters.add(TorchContent.text(e.key())));
    }
    for (String key : List.of("frozen_param_shapes", "shared_params")) {
      TorchContent.entries(source.at(key)).forEach(e -> parameters.add(TorchContent.text(e.key())));
    }
    Map<String, String> before = values(model(input), "module", MINE);
    int whole = 0;
    for (int rank = 0; rank < ranks; rank++) {
      Path file =
          output.resolve(TAG).resolve("zero_pp_rank_" + rank + "_mp_rank_00_model_states.pt");
      Map<String, String> after = values(file, "module", MINE);
      assertThat(after.keySet()).containsExactlyElementsOf(before.keySet());
      for (String path : before.keySet()) {
        if (parameters.contains(path.substring(path.indexOf('.') + 1))) {
          assertThat(after.get(path)).as(path).endsWith("[0] ");
        } else {
          assertThat(after.get(path)).as(path).isEqualTo(before.get(path));
          whole++;
        }
      }
    }
    assertThat(whole).isGreaterThanOrEqualTo(40 * ranks);
  }

  @Test
  void aStorageThatIsPickledByItselfIsCarriedWhole() throws IOException {
    Path input =
        Scratch.copyOf(
            TESTDATA.resolve("field/view-in-client-state-z2/source"), temp.resolve("input"));
    Scratch.edit(
        model(input),
        root -> {
          TensorNode weight =
              TorchContentViews.tensors(((PyDict) root).get("module")).get("emb.weight");
          ((PyDict) root).entries().add(new PyStr(MINE), reference(weight.storage()));
        });

    WithoutBeam.reshard(input, temp.resolve("output"), 3);

    assertThat(storageOf(temp.resolve("output"))).isEqualTo(storageOf(input));
  }

  private static byte[] storageOf(Path checkpoint) {
    TorchContent content = TorchContent.read(model(checkpoint));
    return content.storage(StorageNode.of(content.at(MINE)).orElseThrow().key());
  }

  @Test
  void aViewBeyondItsStorageIsRefused() {
    Path input = Scratch.copyOf(Scratch.source(), temp.resolve("input"));
    Scratch.edit(
        model(input),
        root -> {
          StorageNode storage =
              TorchContentViews.tensors(((PyDict) root).get("module")).get("emb.weight").storage();
          ((PyDict) root)
              .entries()
              .add(
                  new PyStr(MINE),
                  view(storage, 5, new long[] {Long.MAX_VALUE / 2, 1}, new long[] {7, 1}));
        });

    assertThatThrownBy(() -> WithoutBeam.reshard(input, temp.resolve("output"), 4))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(Scratch.MODEL)
        .hasMessageContaining("reaches beyond storage");
  }

  static Stream<Arguments> optimizers() {
    return Stream.of(
        arguments("corpus/z2-bf16-clip", "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt"),
        arguments("corpus/z3-fp32", "zero_pp_rank_1_mp_rank_00_optim_states.pt"));
  }

  @ParameterizedTest
  @MethodSource("optimizers")
  void aViewOfARanksPartitionIsRefusedByName(String name, String shard) throws IOException {
    for (boolean byItself : List.of(false, true)) {
      Path fresh = temp.resolve("input" + byItself);
      Scratch.copyOf(TESTDATA.resolve(name).resolve("source"), fresh);
      Scratch.edit(
          fresh.resolve(TAG).resolve(shard),
          root -> {
            StorageNode partition =
                TorchContentViews.tensors(((PyDict) root).get("optimizer_state_dict"))
                    .values()
                    .stream()
                    .map(TensorNode::storage)
                    .filter(storage -> storage.elements() > 8)
                    .findFirst()
                    .orElseThrow();
            ((PyDict) root)
                .entries()
                .add(
                    new PyStr(MINE),
                    byItself
                        ? reference(partition)
                        : view(partition, 3, new long[] {}, new long[] {}));
          });
      assertThat(Files.exists(fresh.resolve(TAG).resolve(shard))).isTrue();

      assertThatThrownBy(() -> WithoutBeam.reshard(fresh, temp.resolve("output"), 4))
          .isInstanceOf(RefusedException.class)
          .hasMessageContaining(shard)
          .hasMessageContaining(MINE)
          .hasMessageContaining("partitions of this rank");
    }
  }
}
