package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyPersistentId;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;

/**
 * A view on a pickled tensor: {@code torch._utils._rebuild_tensor_v2} or {@code _v3}, as such or
 * inside of {@code _rebuild_parameter}, {@code _rebuild_parameter_with_state} and {@code
 * torch._tensor._rebuild_from_type_v2} (tensors that carry attributes). Edits go to the graph, and
 * an edit that changes nothing leaves every node in place, so that the pickle stays as it was to
 * the byte.
 */
public final class TensorNode {
  private static final PyGlobal SIZE = new PyGlobal("torch", "Size");
  private static final String WHERE = "a tensor in data.pkl";
  private static final String UTILS = "torch._utils";

  private static final int STORAGE = 0;
  private static final int OFFSET = 1;
  private static final int SHAPE = 2;
  private static final int STRIDE = 3;
  private static final int DTYPE = 6;

  /** What holds the argument tuple of the rebuild call. */
  private interface Holder {
    PyTuple args();

    void setArgs(PyTuple args);
  }

  private final PyInstance node;
  private final Holder holder;
  private final boolean typed;

  private TensorNode(PyInstance node, Holder holder, boolean typed) {
    this.node = node;
    this.holder = holder;
    this.typed = typed;
    require(holder.args().size() > (typed ? STRIDE : DTYPE), "too few arguments");
    require(StorageNode.of(holder.args().get(STORAGE)).isPresent(), "no storage");
    require(holder.args().get(OFFSET) instanceof PyInt, "an offset that is no int");
    require(shape().length == stride().length, "shape and stride of different length");
    storageOffset();
    dtype();
  }

  /**
   * The view, if {@code node} is a pickled tensor or parameter.
   *
   * @throws RefusedException if it is one, but malformed
   */
  public static Optional<TensorNode> of(PyObject node) {
    if (!(node instanceof PyInstance instance)
        || instance.construction() != PyInstance.Construction.REDUCE
        || !(instance.args() instanceof PyTuple)) {
      return Optional.empty();
    }
    return unwrap(instance, instance.callable(), holderOf(instance), 0);
  }

  /**
   * A new tensor on the CPU that is the whole of its storage, as {@code torch.save} pickles it.
   *
   * @param dtype one that has a storage class
   * @param key of its storage
   * @param requiresGrad what autograd is told
   * @param shape its dimensions, in elements
   */
  public static PyInstance create(DType dtype, String key, boolean requiresGrad, long... shape) {
    String storageClass =
        dtype
            .storageClass()
            .orElseThrow(
                () -> refused("a tensor of %s can not be written".formatted(dtype.torchName())));
    return PyInstance.reduce(
        new PyGlobal(UTILS, "_rebuild_tensor_v2"),
        PyTuple.of(
            StorageNode.create(
                new PyGlobal("torch", storageClass),
                new PyStr(key),
                new PyStr("cpu"),
                numel(shape)),
            PyInt.of(0),
            tupleOf(shape),
            tupleOf(contiguousStride(shape)),
            requiresGrad ? PyBool.TRUE : PyBool.FALSE,
            PyInstance.reduce(new PyGlobal("collections", "OrderedDict"), PyTuple.of())));
  }

  private static Optional<TensorNode> unwrap(
      PyInstance outermost, PyObject callable, Holder holder, int depth) {
    if (!(callable instanceof PyGlobal global) || depth > 4) {
      return Optional.empty();
    }
    PyTuple args = holder.args();
    boolean typed = global.is(UTILS, "_rebuild_tensor_v2");
    if (typed || global.is(UTILS, "_rebuild_tensor_v3")) {
      return Optional.of(new TensorNode(outermost, holder, typed));
    }
    boolean parameter =
        global.is(UTILS, "_rebuild_parameter") || global.is(UTILS, "_rebuild_parameter_with_state");
    if (parameter
        && args.size() > 0
        && args.get(0) instanceof PyInstance data
        && data.args() instanceof PyTuple) {
      return unwrap(outermost, data.callable(), holderOf(data), depth + 1);
    }
    if (global.is("torch._tensor", "_rebuild_from_type_v2")
        && args.size() > 2
        && args.get(2) instanceof PyTuple) {
      return unwrap(outermost, args.get(0), holderOf(holder, 2), depth + 1);
    }
    return Optional.empty();
  }

  private static Holder holderOf(PyInstance instance) {
    return new Holder() {
      @Override
      public PyTuple args() {
        return (PyTuple) instance.args();
      }

      @Override
      public void setArgs(PyTuple args) {
        instance.setArgs(args);
      }
    };
  }

  private static Holder holderOf(Holder outer, int index) {
    return new Holder() {
      @Override
      public PyTuple args() {
        return (PyTuple) outer.args().get(index);
      }

      @Override
      public void setArgs(PyTuple args) {
        outer.setArgs(replaced(outer.args(), index, args));
      }
    };
  }

  private static PyTuple replaced(PyTuple tuple, int index, PyObject item) {
    List<PyObject> items = new ArrayList<>(tuple.items());
    items.set(index, item);
    return new PyTuple(items);
  }

  /** The node that {@link #of} was given. */
  public PyInstance node() {
    return node;
  }

  /** The element type. */
  public DType dtype() {
    if (typed) {
      return storage().dtype();
    }
    PyObject named = holder.args().get(DTYPE);
    return named instanceof PyGlobal global && global.module().equals("torch")
        ? DType.ofTorchName(global.name())
            .orElseThrow(() -> refused("the element type " + global + " is not supported"))
        : badDtype();
  }

  private static DType badDtype() {
    throw refused("expected an element type such as torch.uint16, found something else");
  }

  /** Its storage. */
  public StorageNode storage() {
    return StorageNode.of(holder.args().get(STORAGE)).orElseThrow();
  }

  public String storageKey() {
    return storage().key();
  }

  /** Length of its storage in elements of {@link #dtype()}. */
  public long storageElements() {
    return storage().bytes() / dtype().bytes();
  }

  /** Where it starts in its storage, in elements of {@link #dtype()}. */
  public long storageOffset() {
    return size(holder.args().get(OFFSET), WHERE, "storage offset");
  }

  /** The extents of the dimensions, in elements; empty for a 0-d tensor. */
  public long[] shape() {
    return sizes(SHAPE, "shape");
  }

  /** The steps of the dimensions in the storage, in elements. */
  public long[] stride() {
    return sizes(STRIDE, "stride");
  }

  /** The number of elements. */
  public long numel() {
    return numel(shape());
  }

  private static long numel(long[] shape) {
    long numel = 1;
    for (long extent : shape) {
      // A zero extent wins over an overflow of the others.
      if (extent == 0) {
        return 0;
      }
    }
    for (long extent : shape) {
      try {
        numel = Math.multiplyExact(numel, extent);
      } catch (ArithmeticException e) {
        throw new RefusedException(
            WHERE, "the shape %s has more than 2^63 elements".formatted(Arrays.toString(shape)), e);
      }
    }
    return numel;
  }

  /**
   * Whether its elements lie row by row without gaps, as {@code Tensor.is_contiguous} decides it.
   */
  public boolean isContiguous() {
    long[] shape = shape();
    if (numel(shape) == 0) {
      return true;
    }
    long[] stride = stride();
    long expected = 1;
    for (int d = shape.length - 1; d >= 0; d--) {
      if (shape[d] != 1) {
        if (stride[d] != expected) {
          return false;
        }
        expected *= shape[d];
      }
    }
    return true;
  }

  /** Gives it another storage. */
  @SuppressWarnings("ReferenceEquality") // Nodes are compared as objects here.
  public void setStorage(PyPersistentId storage) {
    if (holder.args().get(STORAGE) != storage) {
      holder.setArgs(replaced(holder.args(), STORAGE, storage));
    }
  }

  /**
   * Makes it a contiguous tensor of {@code shape}.
   *
   * @param storageOffset in elements
   */
  public void setGeometry(long storageOffset, long... shape) {
    long[] stride = contiguousStride(shape);
    PyTuple args = holder.args();
    if (storageOffset() != storageOffset) {
      args = replaced(args, OFFSET, PyInt.of(storageOffset));
    }
    if (!Arrays.equals(shape(), shape) || !isContiguous()) {
      args = replaced(args, SHAPE, tupleOf(shape));
      if (!Arrays.equals(stride(), stride)) {
        args = replaced(args, STRIDE, tupleOf(stride));
      }
    }
    if (!args.equals(holder.args())) {
      holder.setArgs(args);
    }
  }

  /**
   * Makes it begin at another element of its storage; its shape and strides stay.
   *
   * @param storageOffset in elements
   */
  public void setStorageOffset(long storageOffset) {
    if (storageOffset() != storageOffset) {
      holder.setArgs(replaced(holder.args(), OFFSET, PyInt.of(storageOffset)));
    }
  }

  /**
   * The last element of its storage that it shows, counted from the storage's begin.
   *
   * @throws IllegalStateException if it has no element
   * @throws ArithmeticException if that is further than any storage reaches
   */
  public long lastElement() {
    long[] shape = shape();
    long[] stride = stride();
    if (numel(shape) == 0) {
      throw new IllegalStateException("a tensor without elements has no last one");
    }
    long last = storageOffset();
    for (int d = 0; d < shape.length; d++) {
      last = Math.addExact(last, Math.multiplyExact(shape[d] - 1, stride[d]));
    }
    return last;
  }

  /** What PyTorch gives a fresh tensor: a dimension of extent 0 counts as 1. */
  static long[] contiguousStride(long... shape) {
    long[] stride = new long[shape.length];
    long step = 1;
    for (int d = shape.length - 1; d >= 0; d--) {
      stride[d] = step;
      step = Math.multiplyExact(step, Math.max(1, shape[d]));
    }
    return stride;
  }

  private static PyTuple tupleOf(long[] sizes) {
    return new PyTuple(Arrays.stream(sizes).mapToObj(PyInt::of).toList());
  }

  /**
   * Checks that it lies within its storage.
   *
   * @param where the file and parameter, for the message
   * @throws RefusedException if it does not
   */
  public void requireInBounds(String where) {
    if (numel() == 0) {
      return;
    }
    try {
      if (lastElement() < storageElements()) {
        return;
      }
    } catch (ArithmeticException e) {
      // Further than any storage reaches: refused below.
    }
    throw new RefusedException(
        where,
        "shape %s, stride %s from element %d reaches beyond storage %s of %d elements"
            .formatted(
                Arrays.toString(shape()),
                Arrays.toString(stride()),
                storageOffset(),
                storageKey(),
                storageElements()));
  }

  private long[] sizes(int index, String what) {
    if (!(holder.args().get(index) instanceof PyTuple tuple)) {
      throw refused("expected a tuple as its " + what + ", found something else");
    }
    long[] sizes = new long[tuple.size()];
    for (int i = 0; i < sizes.length; i++) {
      sizes[i] = size(tuple.get(i), WHERE, what);
    }
    return sizes;
  }

  static long size(PyObject node, String where, String what) {
    if (!(node instanceof PyInt number) || !number.isLong() || number.longValue() < 0) {
      throw new RefusedException(
          where, "expected a " + what + " from 0 to 2^63 - 1, found another");
    }
    return number.longValue();
  }

  private static void require(boolean met, String problem) {
    if (!met) {
      throw refused(problem);
    }
  }

  private static RefusedException refused(String problem) {
    return new RefusedException(WHERE, problem);
  }

  /** A {@code torch.Size}. */
  public static PyObject size(long[] shape) {
    return PyInstance.reduce(SIZE, PyTuple.of(tupleOf(shape)));
  }
}
