package io.github.reshard.checkpoint.universal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.TorchContent;
import io.github.reshard.testing.UniversalContent;
import io.github.reshard.testing.WithoutBeam;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Universal Checkpoints, beside those that DeepSpeed's own converter makes: testdata/universal. */
class UniversalOutputTest {
  private static final Path UNIVERSAL =
      Path.of(System.getProperty("reshard.testdata"), "universal");
  private static final String TAG = "global_step3_universal";

  @TempDir Path temp;

  private Path made(String name) {
    Path output = temp.resolve(name);
    WithoutBeam.toUniversal(GoldenCase.of(name).source(), output);
    return output;
  }

  private static Path zero(Path checkpoint) {
    return checkpoint.resolve(TAG).resolve("zero");
  }

  private static List<Path> states(Path checkpoint) {
    return UniversalContent.of(checkpoint).states();
  }

  private static Map<String, byte[]> tensors(Path checkpoint) {
    return UniversalContent.of(checkpoint).tensors();
  }

  /** Those of the parameters that are trained: 0.19.8 also writes what nothing reads. */
  private static Map<String, byte[]> trained(Path checkpoint) {
    Map<String, byte[]> tensors = tensors(checkpoint);
    Map<String, byte[]> trained = new TreeMap<>(tensors);
    trained
        .keySet()
        .removeIf(
            state -> !tensors.containsKey(Path.of(state).resolveSibling("exp_avg.pt").toString()));
    return trained;
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "z1-bf16",
        "z2-fp16-dynamic",
        "z2-fp32-twogroups",
        "z2-freeze-tie",
        "z3-fp32",
        "z3-bf16-subgroups",
        "z3-freeze-tie",
        "pp2-z1"
      })
  void everyTensorIsThatOfDeepSpeedsOwnConverter(String name) {
    Path converted = UNIVERSAL.resolve("0.19.8").resolve(name);
    Map<String, byte[]> ours = tensors(made(name));

    Map<String, byte[]> theirs = trained(converted);
    assertThat(theirs).isNotEmpty();
    assertThat(ours).containsAllEntriesOf(theirs);
    ours.keySet().removeAll(theirs.keySet());
    assertThat(ours.keySet())
        .as("the converter leaves out the step of ZeRO-3, which other stages need")
        .allMatch(state -> name.startsWith("z3") && state.endsWith("/step.pt"));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "z1-sgd",
        "z2-adagrad",
        "z2-elastic",
        "z2-roundrobin",
        "z2-bf16-clip",
        "z3-fp16-offload"
      })
  void everyTensorIsTheSourcesWhereTheConverterFailsOrScrambles(String name) {
    Map<String, byte[]> ours = tensors(made(name));

    Map<String, byte[]> expected = new TreeMap<>();
    Reassembly.of(GoldenCase.of(name).source(), GoldenCase.of(name).tag())
        .tensors()
        .forEach(
            (key, bytes) -> {
              String parameter = key.substring(key.indexOf('/') + 1);
              int dot = parameter.lastIndexOf('.');
              expected.put(
                  parameter.substring(0, dot) + "/" + parameter.substring(dot + 1) + ".pt", bytes);
            });
    ours.keySet().removeIf(state -> state.endsWith("/step.pt"));
    assertThat(ours).isNotEmpty().containsExactlyInAnyOrderEntriesOf(expected);
  }

  @Test
  void theConverterScramblesARoundRobinRunAndThisProgramDoesNot() {
    Map<String, byte[]> theirs = tensors(UNIVERSAL.resolve("0.19.8/z2-roundrobin"));

    assertThat(tensors(made("z2-roundrobin")).entrySet())
        .anyMatch(state -> !Arrays.equals(state.getValue(), theirs.get(state.getKey())));
  }

  @Test
  void filesArePickledAsPyTorchDoesIt() {
    Path converted = UNIVERSAL.resolve("0.19.6/z2-fp32-twogroups");
    Path output = made("z2-fp32-twogroups");

    for (Path state : states(converted)) {
      TorchContent theirs = TorchContent.read(zero(converted).resolve(state));
      TorchContent ours = TorchContent.read(zero(output).resolve(state));
      assertThat(ours.file().hasPickleOf(theirs.file())).as(state.toString()).isTrue();
      assertThat(ours.bytes()).as(state.toString()).hasSameSizeAs(theirs.bytes());
      assertThat(ours.file().archiveName()).isEqualTo(theirs.file().archiveName());
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"z2-fp32-twogroups", "z3-bf16-subgroups"})
  void whatAllShareIsThereForRunsOfAllStages(String name) {
    TorchContent state = TorchContent.read(zero(made(name)).resolve("optimizer_state.pt"));

    assertThat(state.at("loss_scaler")).isNotNull();
    assertThat(state.at("ds_version")).isNotNull();
    assertThat(((PyList) state.at("param_groups")).size()).isEqualTo(2);
    assertThat(state.at("optimizer_state_dict", "state", 0, "step")).isNotNull();
    assertThat(((PyList) state.at("optimizer_state_dict", "param_groups")).size()).isEqualTo(2);
    assertThat(state.at("fp32_flat_groups")).isNull();
    assertThat(state.at("single_partition_of_fp32_groups")).isNull();
    assertThat(state.tensors().values()).allMatch(tensor -> tensor.numel() == 1);
  }

  static Stream<String> bothKinds() {
    return Stream.of("z2-freeze-tie", "z3-freeze-tie");
  }

  @ParameterizedTest
  @MethodSource("bothKinds")
  void bothModelFilesAreThereAndOneHasTheWeights(String name) {
    Path tag = made(name).resolve(TAG);
    TorchContent flat = TorchContent.read(tag.resolve("mp_rank_00_model_states.pt"));
    TorchContent sharded =
        TorchContent.read(tag.resolve("zero_pp_rank_0_mp_rank_00_model_states.pt"));

    for (TorchContent file : List.of(flat, sharded)) {
      assertThat(((PyInt) file.at("global_steps")).value()).isEqualTo(3);
      assertThat(((PyInt) file.at("dp_world_size")).value()).isOne();
      assertThat(TensorNode.of(file.at("module", "scale")).orElseThrow().numel()).isOne();
    }
    TorchContent full = name.startsWith("z2") ? flat : sharded;
    TensorNode frozen =
        TensorNode.of(
                name.startsWith("z2")
                    ? full.at("module", "blocks.0.fc.weight")
                    : full.at("frozen_param_fragments", "blocks.0.fc.weight"))
            .orElseThrow();
    assertThat(frozen.numel()).isEqualTo(40 * 13);
    TorchContent emptied = name.startsWith("z2") ? sharded : flat;
    assertThat(TensorNode.of(emptied.at("module", "emb.weight")).orElseThrow().numel()).isZero();
    assertThat(emptied.bytes().length).isLessThan(12_000);
  }

  private String refusal(String name, int stage, OptionalInt ranks) {
    Path output = temp.resolve("refused");
    RefusedException refused =
        catchThrowableOfType(
            RefusedException.class,
            () -> WithoutBeam.toUniversal(GoldenCase.of(name).source(), output, stage, ranks));
    assertThat(output).doesNotExist();
    return refused.getMessage();
  }

  @Test
  void whatDeepSpeedCannotLoadAtTheStageIsRefused() {
    OptionalInt any = OptionalInt.empty();
    assertThat(refusal("z2-fp32-twogroups", 3, any)).contains("weight_decay");
    assertThat(refusal("z2-adagrad", 3, any)).contains("param group 0 has [sum, fp32]");
    assertThat(refusal("z2-fp32-twogroups", 2, OptionalInt.of(12)))
        .contains("on 12 ranks one holds nothing of param group 1");
    assertThat(refusal("z3-bf16-subgroups", 3, OptionalInt.of(4))).contains("weight_decay");
    assertThat(refusal("moe-z2-ep2", ZeroStage.AS_SAVED, any)).contains("mixture of experts");
  }

  @Test
  void whatDeepSpeedGetsWrongIsSaid() {
    assertThat(
            WithoutBeam.toUniversal(GoldenCase.of("z2-roundrobin").source(), temp.resolve("rr"))
                .notes())
        .anyMatch(note -> note.contains("round_robin_gradients: switch it off"));
    assertThat(
            WithoutBeam.toUniversal(GoldenCase.of("z3-freeze-tie").source(), temp.resolve("frozen"))
                .notes())
        .anyMatch(note -> note.contains("neither buffers nor frozen parameters: 3 tensors"));
    assertThat(
            WithoutBeam.toUniversal(GoldenCase.of("z2-elastic").source(), temp.resolve("elastic"))
                .notes())
        .anyMatch(note -> note.contains("elastic_checkpoint saves no hyper-parameters"));
    assertThat(
            WithoutBeam.toUniversal(
                    GoldenCase.of("z3-bf16-subgroups").source(), temp.resolve("sub-groups"))
                .notes())
        .anyMatch(note -> note.contains("sub-groups one and the same step"));
  }
}
