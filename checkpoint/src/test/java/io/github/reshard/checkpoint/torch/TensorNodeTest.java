package io.github.reshard.checkpoint.torch;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PickleReader;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Tensors that PyTorch 2.6.0 pickled: {@code testdata/tensors/make_tensors.py}. */
class TensorNodeTest {
  private byte[] original;
  private PyObject root;
  private final Map<String, TensorNode> tensors = new LinkedHashMap<>();

  @BeforeEach
  void read() throws IOException {
    Path path = Path.of(System.getProperty("reshard.testdata"), "tensors", "tensors.pkl");
    original = Files.readAllBytes(path);
    root = PickleReader.read(original, "tensors.pkl").root();
    for (var entry : ((PyDict) root).entries()) {
      TensorNode.of(entry.value())
          .ifPresent(tensor -> tensors.put(((PyStr) entry.key()).value(), tensor));
    }
  }

  @Test
  void everyTensorIsRecognised() {
    assertThat(tensors.keySet())
        .containsExactly(
            "float32",
            "float64",
            "float16",
            "bfloat16",
            "int64",
            "int32",
            "int16",
            "int8",
            "uint8",
            "bool",
            "complex64",
            "complex128",
            "uint16",
            "uint32",
            "uint64",
            "float8_e4m3fn",
            "float8_e5m2",
            "view",
            "transposed",
            "scalar",
            "empty",
            "parameter",
            "attributes",
            "parameter_attributes");
  }

  @Test
  void elementTypesHaveTheSizeThatPyTorchGivesThem() {
    for (DType type : DType.values()) {
      if (tensors.containsKey(type.torchName())) {
        TensorNode tensor = tensors.get(type.torchName());
        assertThat(tensor.dtype()).isEqualTo(type);
        assertThat(tensor.shape()).containsExactly(2, 3);
        assertThat(tensor.storageElements()).isEqualTo(6);
        assertThat(tensor.storage().bytes()).isEqualTo(6L * type.bytes());
      }
    }
  }

  @Test
  void viewsShareAStorage() {
    TensorNode view = tensors.get("view");

    assertThat(view.storageKey()).isEqualTo(tensors.get("float32").storageKey());
    assertThat(view.storageOffset()).isEqualTo(2);
    assertThat(view.shape()).containsExactly(4);
    assertThat(view.isContiguous()).isTrue();
    assertThat(tensors.get("transposed").stride()).containsExactly(1, 3);
    assertThat(tensors.get("transposed").isContiguous()).isFalse();
    assertThat(tensors.get("scalar").shape()).isEmpty();
    assertThat(tensors.get("scalar").numel()).isEqualTo(1);
    assertThat(tensors.get("empty").numel()).isZero();
    tensors.forEach((name, tensor) -> tensor.requireInBounds(name));
  }

  @Test
  void anEditThatChangesNothingLeavesEveryByte() {
    tensors.forEach(
        (name, tensor) -> {
          tensor.setStorage(tensor.storage().node());
          if (tensor.isContiguous()) {
            tensor.setGeometry(tensor.storageOffset(), tensor.shape());
          }
        });
    assertThat(PickleWriter.write(root, 2)).isEqualTo(original);
  }

  @Test
  void editsReachTheGraphThroughEveryWrapper() {
    for (TensorNode tensor : tensors.values()) {
      StorageNode old = tensor.storage();
      tensor.setStorage(StorageNode.create(old.type(), new PyStr("77"), old.location(), 800));
      tensor.setGeometry(5, 7, 11);
    }
    PyDict again = (PyDict) PickleReader.read(PickleWriter.write(root, 2), "again").root();

    assertThat(PyEquality.firstDifference(root, again)).isEmpty();
    for (String name : tensors.keySet()) {
      TensorNode tensor = TensorNode.of(again.get(name)).orElseThrow();
      assertThat(tensor.dtype()).isEqualTo(tensors.get(name).dtype());
      assertThat(tensor.storageKey()).isEqualTo("77");
      assertThat(tensor.storageOffset()).isEqualTo(5);
      assertThat(tensor.shape()).containsExactly(7, 11);
      assertThat(tensor.stride()).containsExactly(11, 1);
    }
  }

  @Test
  void whatReachesBeyondTheStorageIsRefused() {
    tensor(0, PyTuple.of(PyInt.of(6)), PyTuple.of(PyInt.of(1))).requireInBounds("f");
    assertThatThrownBy(
            () -> tensor(1, PyTuple.of(PyInt.of(6)), PyTuple.of(PyInt.of(1))).requireInBounds("f"))
        .isInstanceOf(RefusedException.class)
        .hasMessage(
            "f: shape [6], stride [1] from element 1 reaches beyond storage 0 of 6 elements");
    PyInt huge = PyInt.of(1L << 40);
    assertThatThrownBy(
            () -> tensor(0, PyTuple.of(huge, huge), PyTuple.of(huge, huge)).requireInBounds("f"))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("more than 2^63 elements");
    assertThatThrownBy(
            () ->
                tensor(0, PyTuple.of(PyInt.of(3)), PyTuple.of(PyInt.of(Long.MAX_VALUE)))
                    .requireInBounds("f"))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("reaches beyond storage 0");
  }

  @Test
  void malformedTensorsAreRefused() {
    assertRefused(0, PyTuple.of(PyInt.of(-1)), PyTuple.of(PyInt.of(1)), "expected a shape from 0");
    assertRefused(0, PyTuple.of(PyNone.NONE), PyTuple.of(PyInt.of(1)), "expected a shape from 0");
    assertRefused(-1, PyTuple.of(), PyTuple.of(), "expected a storage offset from 0");
    assertRefused(0, PyTuple.of(), PyTuple.of(PyInt.of(1)), "shape and stride of different length");
    assertRefused(0, PyNone.NONE, PyTuple.of(), "expected a tuple as its shape");
    assertThatThrownBy(
            () ->
                StorageNode.of(
                    StorageNode.create(
                        new PyGlobal("torch", "QUInt4x2Storage"),
                        new PyStr("0"),
                        new PyStr("cpu"),
                        1)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("found torch.QUInt4x2Storage: not supported");
  }

  private static void assertRefused(long offset, PyObject shape, PyObject stride, String message) {
    assertThatThrownBy(() -> tensor(offset, shape, stride))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(message);
  }

  private static TensorNode tensor(long offset, PyObject shape, PyObject stride) {
    PyObject storage =
        StorageNode.create(
            new PyGlobal("torch", "FloatStorage"), new PyStr("0"), new PyStr("cpu"), 6);
    return TensorNode.of(
            PyInstance.reduce(
                new PyGlobal("torch._utils", "_rebuild_tensor_v2"),
                PyTuple.of(storage, PyInt.of(offset), shape, stride, PyBool.FALSE, PyNone.NONE)))
        .orElseThrow();
  }
}
