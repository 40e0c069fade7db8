package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.torch.ContainerStyle;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.StorageSize;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import java.util.ArrayList;
import java.util.List;

/**
 * The small {@code torch.save} results that a data file is a row of: a tensor with a storage of its
 * own, or an object. PyTorch saves them into memory, which is why the archive of each is called
 * {@code archive} (torch/distributed/checkpoint/filesystem.py, {@code _write_item}); what a loader
 * does not look at.
 */
final class Container {
  private Container() {}

  private static final String STORAGE = "0";
  private static final int PROTOCOL = 2;
  private static final PyGlobal REBUILD = new PyGlobal("torch._utils", "_rebuild_tensor_v2");
  private static final PyGlobal REBUILD_TYPED = new PyGlobal("torch._utils", "_rebuild_tensor_v3");
  private static final PyGlobal ORDERED_DICT = new PyGlobal("collections", "OrderedDict");
  private static final PyGlobal UNTYPED = new PyGlobal("torch.storage", "UntypedStorage");

  /**
   * The layout of a container that holds a tensor on the CPU.
   *
   * @param archive what its archive is called
   */
  static TorchFileLayout ofTensor(String archive, DType dtype, List<Long> shape) {
    long bytes = Math.multiplyExact(Chunk.elements(shape), (long) dtype.bytes());
    return layout(
        archive,
        PickleWriter.write(tensor(dtype, shape), PROTOCOL),
        List.of(new StorageSize(STORAGE, bytes)));
  }

  /**
   * The layout of a container that holds an object without tensors.
   *
   * @param archive what its archive is called
   * @param pickle of the object, by protocol 2
   */
  static TorchFileLayout ofPickle(String archive, byte[] pickle) {
    return layout(archive, pickle, List.of());
  }

  private static TorchFileLayout layout(String archive, byte[] pickle, List<StorageSize> storages) {
    return TorchFileLayout.plan(
        ContainerStyle.PLAIN,
        archive,
        pickle,
        storages,
        TorchFileLayout.serializationId(pickle, storages));
  }

  /** Where the elements of a tensor begin in its container, in bytes. */
  static long payloadOffset(TorchFileLayout layout) {
    return layout.payloadOffset(STORAGE);
  }

  /** The key of the one storage. */
  static String storageKey() {
    return STORAGE;
  }

  /** As {@code Tensor.__reduce_ex__} has it (torch/_tensor.py). */
  private static PyObject tensor(DType dtype, List<Long> shape) {
    long elements = Chunk.elements(shape);
    boolean typed = dtype.storageClass().isPresent();
    PyObject storage =
        StorageNode.create(
            dtype.storageClass().map(name -> new PyGlobal("torch", name)).orElse(UNTYPED),
            new PyStr(STORAGE),
            new PyStr("cpu"),
            typed ? elements : elements * dtype.bytes());
    PyTuple sizes = numbers(shape);
    PyTuple strides = numbers(strides(shape));
    PyObject hooks = PyInstance.reduce(ORDERED_DICT, PyTuple.of());
    return typed
        ? PyInstance.reduce(
            REBUILD, PyTuple.of(storage, PyInt.of(0), sizes, strides, PyBool.FALSE, hooks))
        : PyInstance.reduce(
            REBUILD_TYPED,
            PyTuple.of(
                storage,
                PyInt.of(0),
                sizes,
                strides,
                PyBool.FALSE,
                hooks,
                new PyGlobal("torch", dtype.torchName())));
  }

  private static List<Long> strides(List<Long> shape) {
    List<Long> strides = new ArrayList<>();
    long stride = 1;
    for (int d = shape.size() - 1; d >= 0; d--) {
      strides.add(0, stride);
      stride *= Math.max(1, shape.get(d));
    }
    return strides;
  }

  private static PyTuple numbers(List<Long> numbers) {
    return new PyTuple(numbers.stream().map(PyInt::of).toList());
  }

  /**
   * The entry that holds the elements of a chunk.
   *
   * @param file the container, which says what {@link DcpMetadata} does
   * @throws RefusedException if it holds something else
   */
  static TorchFile.Entry entryOf(TorchFile file, DType dtype, Chunk chunk) {
    TensorNode tensor =
        TensorNode.of(file.parse().root())
            .orElseThrow(
                () ->
                    new RefusedException(file.path(), "expected a tensor, found another object."));
    List<Long> shape = new ArrayList<>();
    for (long size : tensor.shape()) {
      shape.add(size);
    }
    if (tensor.dtype() != dtype || !shape.equals(chunk.sizes())) {
      throw new RefusedException(
          file.path(),
          "expected %s elements of sizes %s as .metadata says, found %s of %s. The files are of different checkpoints."
              .formatted(dtype.torchName(), chunk.sizes(), tensor.dtype().torchName(), shape));
    }
    long bytes = chunk.elements() * dtype.bytes();
    TorchFile.Entry entry =
        file.storage(tensor.storageKey())
            .orElseThrow(
                () ->
                    new RefusedException(
                        file.path(),
                        "has no storage '%s'. It is damaged.".formatted(tensor.storageKey())));
    if (!tensor.isContiguous() || tensor.storageOffset() != 0 || entry.bytes() != bytes) {
      throw new RefusedException(
          file.path(),
          "expected a storage of %d bytes, row by row and of its own, found one of %d bytes."
              .formatted(bytes, entry.bytes()));
    }
    return entry;
  }
}
