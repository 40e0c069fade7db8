package io.github.reshard.checkpoint.universal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.testing.EditedTorchFile;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.TorchContent;
import io.github.reshard.testing.UniversalContent;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/** Universal Checkpoints of tensor-parallel ranks and of pipelines. */
class UniversalRanksTest {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));
  private static final Path TENSOR = TESTDATA.resolve("tensor");

  @TempDir Path temp;

  /** Directories of one training state at several tensor-parallel sizes, by the state. */
  static Stream<List<Path>> states() throws IOException {
    List<List<Path>> all = new ArrayList<>();
    try (Stream<Path> cases = Files.list(TENSOR)) {
      for (Path state : cases.filter(Files::isDirectory).sorted().toList()) {
        try (Stream<Path> saved = Files.list(state)) {
          all.add(saved.sorted().toList());
        }
      }
    }
    return all.stream();
  }

  private UniversalContent made(Path input, String name) {
    WithoutBeam.toUniversal(input, temp.resolve(name));
    return UniversalContent.of(temp.resolve(name));
  }

  /** DeepSpeed saved one state at each size, so that the files of one are those of all. */
  @ParameterizedTest
  @MethodSource("states")
  void itIsTheSameWhateverTheTensorParallelSize(List<Path> saved) {
    Map<String, byte[]> first = made(saved.get(0), "first").tensors();

    assertThat(saved).hasSizeGreaterThan(1);
    for (Path other : saved.subList(1, saved.size())) {
      assertThat(made(other, other.getFileName().toString()).tensors())
          .as(other.toString())
          .containsExactlyInAnyOrderEntriesOf(first);
    }
  }

  @Test
  void everyFileIsThatOfDeepSpeedsOwnConverter() {
    UniversalContent theirs = UniversalContent.of(TESTDATA.resolve("universal/0.19.8/tp2-z1"));
    UniversalContent ours = made(TESTDATA.resolve("corpus/tp2-z1/source"), "ours");

    assertThat(ours.tensors()).containsExactlyInAnyOrderEntriesOf(theirs.tensors());
    for (Path state : theirs.states()) {
      assertThat(ours.read(state).file().hasPickleOf(theirs.read(state).file()))
          .as(state.toString())
          .isTrue();
    }
  }

  /** What a file says beside the elements, as Python would print it. */
  private static String said(PyObject node) {
    if (node instanceof PyDict dict) {
      Map<String, String> said = new TreeMap<>();
      for (PyEntries.Entry entry : dict.entries()) {
        String key = TorchContent.text(entry.key());
        if (!key.equals("param")) {
          said.put(key, said(entry.value()));
        }
      }
      return said.toString();
    }
    if (node instanceof PyInstance instance && instance.isOf(MODULE, "SubparamShape")) {
      return said(instance.state());
    }
    if (node instanceof PyList list) {
      return list.items().stream().map(UniversalRanksTest::said).toList().toString();
    }
    if (node instanceof PyTuple tuple) {
      return tuple.items().stream().map(UniversalRanksTest::said).toList().toString();
    }
    return node instanceof PyStr || node instanceof PyInt ? TorchContent.text(node) : "" + node;
  }

  private static final String MODULE = "deepspeed.checkpoint.universal_checkpoint";

  /**
   * The same was seen of the converter of DeepSpeed 0.19.8, whose files of these cases have the
   * same bytes and say the same, if {@code affine_map} is taken out: with it, it says nothing.
   */
  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "cut-z1/tp2dp1 | word_embeddings_weight  | {cat_dim=0, vocab_tensor=TRUE}",
        "cut-z1/tp1dp2 | word_embeddings_weight  | {cat_dim=0, vocab_tensor=TRUE}",
        "cut-z1/tp4dp1 | layers_0_gate_up_weight | {cat_dim=0, param_n_sub_params=2}",
        "cut-z1/tp2dp1 | layers_0_out_weight     | {cat_dim=1}",
        "cut-z1/tp2dp1 | layers_0_scale          | {}",
        "cut-z1/tp2dp1 | layers_0_norm_weight    | {}",
        "qkv-z2/tp2dp1 | blocks.0.fc.bias        | {sub_param_shape={partition_dim=0,"
            + " patterns=[^blocks\\.0\\.fc\\.bias$], shape=[[40, 40, 40]]}}",
        "qkv-z3/tp2dp2 | blocks.1.fc.weight      | {sub_param_shape={partition_dim=0,"
            + " patterns=[^blocks\\.1\\.fc\\.weight$], shape=[[40, 40, 40], -1]}}",
        "llama-z1/tp3dp1 | lm_head.weight        | {cat_dim=0, vocab_tensor=TRUE}",
      })
  void aFileSaysHowRanksCutIt(String source, String parameter, String keys) {
    UniversalContent made = made(TENSOR.resolve(source), "made");

    for (String state : List.of("fp32.pt", "exp_avg.pt")) {
      assertThat(said(made.read(Path.of(parameter, state)).root())).isEqualTo(keys);
    }
  }

  /** Before version 0.4 matrices are only counted; the loader wants their widths. */
  @Test
  void countedMatricesGetTheirWidths() {
    Path copy = Scratch.copyOf(TENSOR.resolve("qkv-z2/tp2dp1"), temp.resolve("source"));
    for (int rank = 0; rank < 2; rank++) {
      EditedTorchFile file = modelFile(copy, rank);
      PickledValue info = file.root().get("universal_checkpoint_info");
      info.entries()
          .list()
          .removeIf(
              entry ->
                  List.of("sub_param_shard_widths", "affine_map")
                      .contains(TorchContent.text(entry.key())));
      for (PickledValue fused : info.get("parameter_with_sub_params").items()) {
        boolean matrix = fused.get("shape").items().size() > 1;
        fused
            .entries()
            .replace(
                "shape", matrix ? PyTuple.of(PyInt.of(3), PyInt.of(-1)) : PyTuple.of(PyInt.of(3)));
      }
      file.write();
    }

    UniversalContent made = made(copy, "made");

    assertThat(said(made.read(Path.of("blocks.0.fc.weight", "fp32.pt")).root()))
        .contains("shape=[[40, 40, 40], -1]");
    assertThat(made.tensors())
        .containsExactlyInAnyOrderEntriesOf(
            made(TENSOR.resolve("qkv-z2/tp2dp1"), "same").tensors());
  }

  private static EditedTorchFile modelFile(Path checkpoint, int rank) {
    return new EditedTorchFile(
        checkpoint.resolve("global_step3/mp_rank_0%d_model_states.pt".formatted(rank)));
  }

  /** Tied layers are on two stages, and once in the output. */
  @Test
  void stagesOfAPipelineAreOneModel() throws IOException {
    Path tied = TESTDATA.resolve("degrees/pipeline-tied");
    Map<String, byte[]> two = made(tied.resolve("source"), "two").tensors();

    assertThat(made(tied.resolve("reference-1-stage"), "one").tensors())
        .containsExactlyInAnyOrderEntriesOf(two);
    assertThat(made(tied.resolve("reference-3-stages"), "three").tensors())
        .containsExactlyInAnyOrderEntriesOf(two);
    assertThat(two.keySet()).anyMatch(state -> state.startsWith("tied_modules."));
  }

  @Test
  void modelFilesAreThoseOfEachRankOnOneDataParallelRank() {
    Path one = temp.resolve("one");
    WithoutBeam.reshard(TENSOR.resolve("columns-z1/tp2dp2"), one, 1);
    made(TENSOR.resolve("columns-z1/tp2dp2"), "made");

    for (int rank = 0; rank < 2; rank++) {
      String name = "mp_rank_0%d_model_states.pt".formatted(rank);
      assertThat(content(temp.resolve("made/global_step3_universal").resolve(name)))
          .containsExactlyInAnyOrderEntriesOf(content(one.resolve("global_step3").resolve(name)));
    }
  }

  private static Map<String, byte[]> content(Path file) {
    TorchContent content = TorchContent.read(file);
    Map<String, byte[]> tensors = new TreeMap<>();
    content.tensors().forEach((name, tensor) -> tensors.put(name, content.tensor(tensor)));
    return tensors;
  }

  private interface Damage {
    void to(Path tag) throws IOException;
  }

  private void assertRefused(String source, String message, Damage damage) {
    Path copy = Scratch.copyOf(TENSOR.resolve(source), temp.resolve("source"));
    try {
      damage.to(copy.resolve("global_step3"));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    assertThatThrownBy(() -> made(copy, "made"))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(message);
  }

  @Test
  void copiesThatDifferAreRefused() {
    assertRefused(
        "columns-z1/tp2dp2",
        "emb.weight",
        tag -> flip(tag, "bf16_zero_pp_rank_0_mp_rank_01_optim_states.pt", "exp_avg", 0));
  }

  @Test
  void averagedParametersThatDifferAreRefused() {
    assertRefused(
        "cut-z1/tp2dp1",
        "layers_0_scale",
        tag -> {
          flip(
              tag, "bf16_zero_pp_rank_0_mp_rank_01_optim_states.pt", "exp_avg", offsetOfScale(tag));
        });
  }

  private static int offsetOfScale(Path tag) {
    TorchContent model = TorchContent.read(tag.resolve("mp_rank_01_model_states.pt"));
    long at = 0;
    for (Parameter parameter :
        new ModelStates(PickledValue.root("", model.root())).flatGroups().get(0)) {
      if (parameter.name().equals("layers_0_scale")) {
        return Math.toIntExact(at * Float.BYTES);
      }
      at += parameter.elements();
    }
    throw new IllegalStateException("no layers_0_scale in " + tag);
  }

  private static void flip(Path tag, String shard, String state, int at) {
    EditedTorchFile file = new EditedTorchFile(tag.resolve(shard));
    PickledValue states =
        file.root().get("optimizer_state_dict").get("base_optimizer_state").get("state");
    String key = states.children().get(0).value().get(state).tensor().storageKey();
    file.storage(key).put(at, (byte) (file.storage(key).get(at) ^ 1));
    file.write();
  }

  @Test
  void ranksOfDifferentStepsAreRefused() {
    assertRefused(
        "columns-z1/tp2dp2",
        "step",
        tag -> {
          for (int rank = 0; rank < 2; rank++) {
            EditedTorchFile file =
                new EditedTorchFile(
                    tag.resolve("bf16_zero_pp_rank_%d_mp_rank_01_optim_states.pt".formatted(rank)));
            PickledValue states =
                file.root().get("optimizer_state_dict").get("base_optimizer_state").get("state");
            String key = states.children().get(0).value().get("step").tensor().storageKey();
            file.storage(key).putFloat(0, 4);
            file.write();
          }
        });
  }

  @Test
  void ranksThatDoNotSayHowTheyBelongTogetherAreRefused() {
    assertRefused(
        "columns-z1/tp2dp2",
        "nothing in it says how its parameters are cut",
        tag -> {
          for (int rank = 0; rank < 2; rank++) {
            EditedTorchFile file =
                new EditedTorchFile(tag.resolve("mp_rank_0%d_model_states.pt".formatted(rank)));
            file.root()
                .entries()
                .list()
                .removeIf(
                    entry -> TorchContent.text(entry.key()).equals("universal_checkpoint_info"));
            file.write();
          }
        });
  }
}
