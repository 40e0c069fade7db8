package io.github.reshard.checkpoint.dcp;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.pickle.DictBuilder;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.EditedTorchFile;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** What the user gave to {@code save_checkpoint} goes to a distributed checkpoint and back. */
class DcpClientStateTest {
  private static final GoldenCase CASE = GoldenCase.of("z2-fp32-twogroups");

  @TempDir Path scratch;

  private static PyObject tensor(EditedTorchFile file, String key, int fill, long... shape) {
    byte[] bytes = new byte[(int) Arrays.stream(shape).reduce(1, (a, b) -> a * b)];
    Arrays.fill(bytes, (byte) fill);
    file.setStorage(key, ByteBuffer.wrap(bytes));
    return TensorNode.create(DType.UINT8, key, false, shape);
  }

  private Path saved(String name, int fill, PyObject more) throws IOException {
    Path copy = scratch.resolve(name);
    Scratch.copyOf(CASE.source(), copy);
    EditedTorchFile file = new EditedTorchFile(copy.resolve(Scratch.TAG).resolve(Scratch.MODEL));
    DictBuilder inList = new DictBuilder();
    inList.put("w", tensor(file, "900", fill, 2, 3));
    DictBuilder client = new DictBuilder();
    client.put("rng", tensor(file, "901", fill, 16));
    client.put("ema", PyList.of(List.of(inList.dict(), PyInt.of(fill))));
    client.put("plain", PyList.of(List.of(PyInt.of(fill))));
    client.put("more", more);
    file.root().entries().add(new PyStr("client"), client.dict());
    file.write();
    return copy;
  }

  private Path dcp(Path source, DcpDialect dialect) throws IOException {
    Path dcp = scratch.resolve(source.getFileName() + " " + dialect);
    WithoutBeam.toDcp(source, dcp, dialect, 2);
    return dcp.resolve(Scratch.TAG);
  }

  @ParameterizedTest
  @CsvSource({"TORCH", "ACCELERATE", "TORCHTITAN"})
  void tensorsGoOutAndComeBack(DcpDialect dialect) throws IOException {
    Path source = saved("source", 7, PyInt.of(1));
    Path dcp = dcp(source, dialect);
    Path template = saved("template", 0, PyInt.of(0));
    Path back = scratch.resolve("back");

    WithoutBeam.fromDcp(dcp, template, back, CASE.sourceWorld(), ZeroStage.AS_SAVED);

    assertThat(CheckpointComparison.with(source).firstDifference(back)).isEmpty();
  }

  /** As PyTorch takes a state dict apart, so that its loaders find each key that they ask for. */
  @Test
  void listsWithTensorsAreTakenApart() throws IOException {
    Path source = saved("source", 7, PyInt.of(1));
    DcpMetadata metadata =
        DcpDirectory.find(new LocalSourceStore(), dcp(source, DcpDialect.TORCH).toString())
            .orElseThrow()
            .metadata();
    assertThat(metadata.tensor("client.ema.0.w").orElseThrow().shape()).containsExactly(2L, 3L);
    assertThat(metadata.tensor("client.rng")).isPresent();
    assertThat(metadata.value("client.ema.1")).isPresent();
    assertThat(metadata.value("client.plain")).isPresent();
    assertThat(metadata.paths().get("client.ema.0.w"))
        .containsExactly(
            new DcpMetadata.Step.Key("client"),
            new DcpMetadata.Step.Key("ema"),
            new DcpMetadata.Step.Index(0),
            new DcpMetadata.Step.Key("w"));
  }

  /** A tuple is one object to PyTorch, with its tensors in its pickle. */
  @Test
  void aTupleOfTensorsIsLeftOutAndNamed() throws IOException {
    Path source = saved("source", 7, PyTuple.of(TensorNode.create(DType.UINT8, "901", false, 16)));

    ReshardPlan plan = WithoutBeam.toDcp(source, scratch.resolve("dcp"), DcpDialect.TORCH, 1);

    assertThat(plan.notes())
        .contains(
            "not taken along: client.more of the client's state, which is no tensor and holds"
                + " some");
  }

  enum Other {
    SHAPE,
    OBJECT,
    TENSOR,
    SHARED
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "SHAPE  | is uint8 of shape [16], the template has uint8 of shape [4, 4]",
        "OBJECT | is no tensor, and in the template's client state it is a tensor",
        "TENSOR | is a tensor, and in the template's client state it is none",
        "SHARED | shares its storage with",
      })
  void whatIsNotTheSameInTheTemplateIsRefused(Other other, String said) throws IOException {
    PyObject one = TensorNode.create(DType.UINT8, "901", false, 16);
    Path source = saved("source", 7, other == Other.OBJECT ? PyInt.of(1) : one);
    Path template =
        saved(
            "template",
            0,
            switch (other) {
              case SHAPE -> TensorNode.create(DType.UINT8, "901", false, 4, 4);
              case TENSOR -> PyInt.of(2);
              default -> one;
            });

    assertThatThrownBy(
            () ->
                WithoutBeam.fromDcp(
                    dcp(source, DcpDialect.TORCH),
                    template,
                    scratch.resolve("back"),
                    2,
                    ZeroStage.AS_SAVED))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(said);
  }
}
