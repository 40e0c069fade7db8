package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.parallel.UniversalKeys;
import io.github.reshard.checkpoint.pickle.DictBuilder;
import io.github.reshard.checkpoint.pickle.GraphCopy;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * What a file of one state of one parameter says: a dict with the whole tensor in its own shape
 * (DeepSpeed 0.19.8, checkpoint/ds_to_universal.py, {@code merge_tp_slices}). The converter writes
 * the states of ZeRO-3 flat and without a dict, which only a run at stage 3 can load; this dict all
 * stages can.
 */
final class UniversalTensor {
  static final String PARAM = "param";
  static final String CAT_DIM = "cat_dim";
  static final String VOCABULARY = "vocab_tensor";
  private static final String ALIKE = "param_n_sub_params";
  private static final String FUSED = "sub_param_shape";

  /** The dataclass that says what is fused in a parameter. */
  private static final PyGlobal SUB_PARAMETERS =
      new PyGlobal("deepspeed.checkpoint.universal_checkpoint", "SubparamShape");

  private static final String SHAPE = "shape";
  private static final String DIMENSION = "partition_dim";

  /** The key of the only storage. */
  private static final String KEY = "0";

  private UniversalTensor() {}

  /**
   * @param dtype the type of an element
   * @param shape of the whole parameter
   * @param keys what is said of it beside its elements
   */
  static Rewritten of(String state, DType dtype, List<Long> shape, UniversalKeys keys) {
    DictBuilder dict = new DictBuilder();
    keys.catDim().ifPresent(dim -> dict.put(CAT_DIM, PyInt.of(dim)));
    if (keys.alike() > 1) {
      dict.put(ALIKE, PyInt.of(keys.alike()));
    }
    keys.fused().ifPresent(said -> dict.put(FUSED, fused(said, shape, keys.matrices())));
    if (keys.vocabulary()) {
      dict.put(VOCABULARY, PyBool.TRUE);
    }
    long[] dimensions = shape.stream().mapToLong(Long::longValue).toArray();
    dict.put(PARAM, TensorNode.create(dtype, KEY, state.equals(States.MASTER), dimensions));
    return new Rewritten(
        dict.dict(),
        List.of(
            new Rewritten.Storage(
                KEY,
                Box.elements(shape) * dtype.bytes(),
                new Rewritten.Content.PartitionOf(0, state))));
  }

  /**
   * The dataclass. Where the run only counts the matrices, older than version 0.4, the loader wants
   * to know how wide each is.
   */
  private static PyObject fused(PickledValue said, List<Long> shape, int matrices) {
    int dimension = said.get(DIMENSION).asInt();
    List<PyObject> sizes = new ArrayList<>();
    for (PickledValue size : said.get(SHAPE).items()) {
      sizes.add(GraphCopy.of(size.node()));
    }
    boolean counted = !(sizes.get(dimension) instanceof PyTuple);
    if (counted) {
      PyObject width = PyInt.of(shape.get(dimension) / matrices);
      sizes.set(dimension, new PyTuple(Collections.nCopies(matrices, width)));
    }
    return PyInstance.newObject(
        SUB_PARAMETERS,
        new DictBuilder()
            .put("patterns", GraphCopy.of(said.get("patterns").node()))
            .put(SHAPE, counted ? new PyTuple(sizes) : PyList.of(sizes))
            .put(DIMENSION, PyInt.of(dimension))
            .dict());
  }
}
