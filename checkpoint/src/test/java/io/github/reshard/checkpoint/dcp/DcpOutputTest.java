package io.github.reshard.checkpoint.dcp;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.testing.EditedTorchFile;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Safetensors;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Stream;
import java.util.zip.CRC32;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Distributed checkpoints made of DeepSpeed's, held against what DeepSpeed had in memory. That
 * PyTorch loads and resumes them is what scripts/interop shows.
 */
class DcpOutputTest {
  @TempDir Path output;

  /** Cases with a truth, whatever the stage. */
  static Stream<GoldenCase> cases() {
    return GoldenCase.all().stream()
        .filter(
            golden ->
                golden.directory().getParent().endsWith("corpus")
                    || golden.name().equals("z1-sgd-plain")
                    || golden.name().equals("z1-amsgrad"))
        .filter(golden -> Files.exists(golden.truth()));
  }

  @ParameterizedTest
  @MethodSource("cases")
  void holdsWhatDeepSpeedHadInMemory(GoldenCase golden) throws IOException {
    WithoutBeam.toDcp(golden.source(), output, DcpDialect.TORCH, 0);

    Path tag = output.resolve(golden.tag());
    DcpDirectory dcp = read(tag);
    Map<String, byte[]> truth = Safetensors.read(golden.truth());
    assertThat(truth).isNotEmpty();
    for (var state : truth.entrySet()) {
      int dot = state.getKey().lastIndexOf('.');
      String parameter = state.getKey().substring(0, dot);
      String name = state.getKey().substring(dot + 1);
      String key =
          name.equals("fp32") ? "model." + parameter : "optim.state." + parameter + "." + name;
      assertThat(bytes(dcp, tag, key)).as(key).isEqualTo(state.getValue());
    }
    assertThat(dcp.metadata().tensor("model.scale").orElseThrow().shape()).isEmpty();
  }

  private static DcpDirectory read(Path directory) throws IOException {
    return DcpDirectory.find(new LocalSourceStore(), directory.toString()).orElseThrow();
  }

  private static byte[] bytes(DcpDirectory dcp, Path directory, String key) throws IOException {
    DcpMetadata.Tensor tensor = dcp.metadata().tensor(key).orElseThrow();
    Chunk chunk = tensor.chunks().get(0);
    assertThat(chunk.sizes()).isEqualTo(tensor.shape());
    try (DcpDirectory.Reading reading = dcp.open(new LocalSourceStore())) {
      TorchFile.Entry entry = reading.elements(key, tensor.dtype(), chunk);
      byte[] bytes = new byte[(int) entry.bytes()];
      ByteBuffer.wrap(Files.readAllBytes(directory.resolve(chunk.place().file())))
          .get((int) entry.payloadOffset(), bytes);
      CRC32 crc = new CRC32();
      crc.update(bytes);
      assertThat((int) crc.getValue()).as(key).isEqualTo(entry.crc32());
      return bytes;
    }
  }

  /** What DeepSpeed saved of one state on tensor-parallel ranks and on a single one. */
  @ParameterizedTest
  @CsvSource({
    "columns-z1/tp2dp2, columns-z1/tp1dp3",
    "columns-gad/tp4dp1, columns-gad/tp1dp3",
    "columns-z3/tp3dp1, columns-z3/tp1dp3",
    "llama-z3/tp3dp1, llama-z3/tp1dp2",
    "llama-tied-z2/tp2dp1, llama-tied-z2/tp1dp2",
    "qkv-z2/tp5dp1, qkv-z2/tp1dp2",
  })
  void tensorParallelRanksAreJoined(String ranks, String single, @TempDir Path other)
      throws IOException {
    Path tensor = Path.of(System.getProperty("reshard.testdata"), "tensor");
    WithoutBeam.toDcp(tensor.resolve(single), other, DcpDialect.TORCH, 1);

    WithoutBeam.toDcp(tensor.resolve(ranks), output, DcpDialect.TORCH, 1);

    Path expected = other.resolve("global_step3");
    Path joined = output.resolve("global_step3");
    assertThat(read(joined).metadata().items().keySet())
        .isEqualTo(read(expected).metadata().items().keySet());
    for (var item : read(expected).metadata().items().entrySet()) {
      if (item.getValue() instanceof DcpMetadata.Tensor) {
        assertThat(bytes(read(joined), joined, item.getKey()))
            .as(item.getKey())
            .isEqualTo(bytes(read(expected), expected, item.getKey()));
      }
    }
  }

  /** A rank that saved something else is of another run. */
  @ParameterizedTest
  @CsvSource({"exp_avg, emb.weight", "lr, differs in lr"})
  void ranksThatDifferAreRefused(String what, String said, @TempDir Path copy) throws IOException {
    Path saved = Path.of(System.getProperty("reshard.testdata"), "tensor/columns-z1/tp2dp2");
    Path source = copy.resolve("source");
    Scratch.copyOf(saved, source);
    for (int rank = 0; rank < 2; rank++) {
      EditedTorchFile file =
          new EditedTorchFile(
              source.resolve(
                  "global_step3/bf16_zero_pp_rank_%d_mp_rank_01_optim_states.pt".formatted(rank)));
      PickledValue base = file.root().get("optimizer_state_dict").get("base_optimizer_state");
      if (what.equals("lr")) {
        base.get("param_groups").items().get(0).entries().replace("lr", new PyFloat(0.5));
      } else {
        String key = base.get("state").children().get(0).value().get(what).tensor().storageKey();
        file.storage(key).put(0, (byte) (file.storage(key).get(0) ^ 1));
      }
      file.write();
    }

    assertThatThrownBy(() -> WithoutBeam.toDcp(source, output, DcpDialect.TORCH, 1))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(said);
  }

  @Test
  void optionsAndStepsOfEachGroup() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-fp32-twogroups");
    WithoutBeam.toDcp(golden.source(), output, DcpDialect.TORCH, 0);

    Path tag = output.resolve(golden.tag());
    DcpDirectory dcp = read(tag);
    try (DcpDirectory.Reading reading = dcp.open(new LocalSourceStore())) {
      assertThat(((PyFloat) reading.value("optim.param_groups.1.lr").orElseThrow()).value())
          .isEqualTo(2e-2);
      assertThat(((PyFloat) reading.value("optim.param_groups.1.initial_lr").orElseThrow()).value())
          .isEqualTo(2e-2);
      assertThat(reading.value("optim.param_groups.0.decoupled_weight_decay"))
          .hasValue(PyBool.FALSE);
      PyList params = (PyList) reading.value("optim.param_groups.0.params").orElseThrow();
      assertThat(params.items().stream().map(name -> ((PyStr) name).value()))
          .startsWith("emb.weight")
          .doesNotContain("blocks.0.ln.weight");
      assertThat(((PyInt) reading.value("global_steps").orElseThrow()).value().intValue())
          .isEqualTo(3);
      assertThat(((PyInt) reading.value("mydata.epoch").orElseThrow()).value().intValue())
          .isEqualTo(3);
    }
    byte[] step = bytes(dcp, tag, "optim.state.blocks.1.ln.bias.step");
    assertThat(ByteBuffer.wrap(step).order(ByteOrder.LITTLE_ENDIAN).getFloat()).isEqualTo(3);
    assertThat(dcp.files()).hasSize(golden.sourceWorld());
  }

  @ParameterizedTest
  @ValueSource(strings = {"z2-freeze-tie", "z3-freeze-tie"})
  void tiedAndFrozenWeightsAndBuffers(String name) throws IOException {
    GoldenCase golden = GoldenCase.of(name);
    WithoutBeam.toDcp(golden.source(), output, DcpDialect.TORCH, 1);

    DcpMetadata metadata = read(output.resolve(golden.tag())).metadata();
    assertThat(metadata.tensor("model.head.weight"))
        .isPresent()
        .isEqualTo(metadata.tensor("model.emb.weight"));
    assertThat(metadata.items())
        .containsKeys("model.blocks.0.fc.weight", "model.blocks.0.ln.bias", "model.scale")
        .doesNotContainKey("optim.state.blocks.0.fc.weight.exp_avg");
  }

  @Test
  void keysOfEachDialect() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-fp32-twogroups");
    Map<DcpDialect, List<String>> expected =
        Map.of(
            DcpDialect.TORCH,
            List.of(
                "model.emb.weight",
                "optim.state.emb.weight.exp_avg",
                "optim.param_groups.0.params",
                "global_steps"),
            DcpDialect.TORCH_FLAT,
            List.of(
                "model.emb.weight",
                "optim.state.emb.weight.exp_avg",
                "optim.param_groups.emb.weight.lr"),
            DcpDialect.TORCHTITAN,
            List.of(
                "emb.weight",
                "optimizer.state.emb.weight.exp_avg",
                "optimizer.param_groups.emb.weight.lr"));
    for (var dialect : expected.entrySet()) {
      Path to = output.resolve(dialect.getKey().optionName());
      WithoutBeam.toDcp(golden.source(), to, dialect.getKey(), 2);
      assertThat(read(to.resolve(golden.tag())).metadata().items())
          .containsKeys(dialect.getValue().toArray(String[]::new));
    }
    Path to = output.resolve("accelerate");
    WithoutBeam.toDcp(golden.source(), to, DcpDialect.ACCELERATE, 2);
    Path tag = to.resolve(golden.tag());
    assertThat(read(tag.resolve("pytorch_model_fsdp_0")).metadata().items())
        .containsKeys("model.emb.weight", "global_steps")
        .allSatisfy((key, item) -> assertThat(key).doesNotStartWith("optim"));
    Set<String> prefixes = new TreeSet<>();
    read(tag.resolve("optimizer_0"))
        .metadata()
        .items()
        .keySet()
        .forEach(key -> prefixes.add(key.substring(0, key.indexOf('.'))));
    assertThat(prefixes).containsExactly("optimizer");
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 2, 5, 1000})
  void asManyDataFilesAsAskedFor(int files) throws IOException {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    WithoutBeam.toDcp(golden.source(), output, DcpDialect.TORCH_FLAT, files);

    DcpDirectory dcp = read(output.resolve(golden.tag()));
    assertThat(dcp.files().size()).isLessThanOrEqualTo(files);
    if (files <= 5) {
      assertThat(dcp.files()).hasSize(files);
      long least = dcp.files().values().stream().mapToLong(f -> f.bytes()).min().orElseThrow();
      long most = dcp.files().values().stream().mapToLong(f -> f.bytes()).max().orElseThrow();
      assertThat(most - least).isLessThan(most / 2);
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"moe-z2-ep2", "pp2-z1"})
  void refusesWhatHasNoPlaceThere(String name) {
    GoldenCase golden = GoldenCase.of(name);
    assertThatThrownBy(() -> WithoutBeam.toDcp(golden.source(), output, DcpDialect.TORCH, 1))
        .isInstanceOf(RefusedException.class)
        .message()
        .containsAnyOf("experts", "pipeline");
  }

  @Test
  void refusesStatesThatAreNotElementwise() {
    Path field = Path.of(System.getProperty("reshard.testdata"), "field");
    assertThatThrownBy(
            () -> WithoutBeam.toDcp(field.resolve("muon-z2/source"), output, DcpDialect.TORCH, 1))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("Muon");
    assertThatThrownBy(
            () ->
                WithoutBeam.toDcp(
                    field.resolve("adafactor-z2/source"), output, DcpDialect.TORCH, 1))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("'RMS', which each rank computes from its own partition");
    assertThatThrownBy(
            () ->
                WithoutBeam.toDcp(
                    field.resolve("bitsandbytes-32bit/source"), output, DcpDialect.TORCH, 1))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("'__bnb_optimizer_quant_state__.state1' in a dict of its own");
  }

  /** None are made up: the script's own stay where a loader is told that some may be missing. */
  @ParameterizedTest
  @EnumSource(names = {"TORCH", "TORCH_FLAT"})
  void elasticCheckpointsHaveNoHyperParameters(DcpDialect dialect) throws IOException {
    GoldenCase golden = GoldenCase.of("z2-elastic");
    List<String> notes = WithoutBeam.toDcp(golden.source(), output, dialect, 1).notes();

    assertThat(notes).anyMatch(note -> note.contains("allow_partial_load"));
    DcpMetadata metadata = read(output.resolve(golden.tag())).metadata();
    assertThat(metadata.items()).containsKey("optim.state.head.weight.step");
    assertThat(metadata.items().keySet().stream().filter(key -> key.contains("param_groups")))
        .containsExactlyElementsOf(
            dialect == DcpDialect.TORCH
                ? List.of("optim.param_groups.0.params", "optim.param_groups.1.params")
                : List.of());
  }
}
