package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.List;
import java.util.OptionalInt;

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

  /** The key of the only storage. */
  private static final String KEY = "0";

  private UniversalTensor() {}

  /**
   * @param dtype the type of an element
   * @param shape of the whole parameter
   * @param catDim along which dimension tensor-parallel ranks hold it; empty if they all hold all
   */
  static Rewritten of(String state, DType dtype, List<Long> shape, OptionalInt catDim) {
    PyDict dict = new PyDict();
    catDim.ifPresent(dim -> dict.entries().add(new PyStr(CAT_DIM), PyInt.of(dim)));
    long[] dimensions = shape.stream().mapToLong(Long::longValue).toArray();
    dict.entries()
        .add(
            new PyStr(PARAM),
            TensorNode.create(dtype, KEY, state.equals(States.MASTER), dimensions));
    long elements = 1;
    for (long dimension : dimensions) {
      elements = Math.multiplyExact(elements, dimension);
    }
    return new Rewritten(
        dict,
        List.of(
            new Rewritten.Storage(
                KEY, elements * dtype.bytes(), new Rewritten.Content.PartitionOf(0, state))));
  }
}
