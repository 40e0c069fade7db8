package io.github.reshard.testing;

import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;

/** What tensors of any strides show. */
public final class TorchContentViews {
  private TorchContentViews() {}

  /** The tensors of a dict of dicts by the last key. */
  public static Map<String, TensorNode> tensors(PyObject dict) {
    Map<String, TensorNode> found = new LinkedHashMap<>();
    addTensors(dict, found);
    return found;
  }

  private static void addTensors(PyObject dict, Map<String, TensorNode> into) {
    PyEntries entries = TorchContent.entries(dict);
    if (entries != null) {
      for (PyEntries.Entry entry : entries) {
        TensorNode.of(entry.value())
            .ifPresentOrElse(
                tensor -> into.put(TorchContent.text(entry.key()), tensor),
                () -> addTensors(entry.value(), into));
      }
    }
  }

  /** Type, shape and the elements row by row, each found by its indices. */
  public static String values(TorchContent content, TensorNode tensor) {
    long[] shape = tensor.shape();
    long[] stride = tensor.stride();
    StringBuilder text = new StringBuilder(tensor.dtype() + Arrays.toString(shape) + " ");
    int width = tensor.dtype().bytes();
    byte[] storage = tensor.numel() == 0 ? new byte[0] : content.storage(tensor.storageKey());
    for (long e = 0; e < tensor.numel(); e++) {
      long at = tensor.storageOffset();
      long rest = e;
      for (int d = shape.length - 1; d >= 0; d--) {
        at += rest % shape[d] * stride[d];
        rest /= shape[d];
      }
      text.append(HexFormat.of().formatHex(storage, (int) (at * width), (int) ((at + 1) * width)));
    }
    return text.toString();
  }
}
