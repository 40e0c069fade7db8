package io.github.reshard.testing;

import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.stream.Collectors;

/**
 * A torch file in memory.
 *
 * @param file its container
 * @param root its object, which may be edited
 * @param bytes the whole file
 */
@SuppressWarnings("ArrayRecordComponent") // Never compared.
public record TorchContent(TorchFile file, PyObject root, byte[] bytes) {
  public static TorchContent read(Path path) {
    try {
      try (RangedFile open = Corpus.open(path)) {
        TorchFile file = TorchFile.read(open);
        return new TorchContent(file, file.parse().root(), Files.readAllBytes(path));
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** The value at a path of dict keys, numbers of keys, and indices of lists; null if not there. */
  public PyObject at(Object... path) {
    PyObject node = root;
    for (Object step : path) {
      if (node instanceof PyList list) {
        node = list.get((Integer) step);
      } else if (node instanceof PyTuple tuple) {
        node = tuple.get((Integer) step);
      } else if (entries(node) == null) {
        return null;
      } else {
        node =
            step instanceof String key ? entries(node).get(key) : entries(node).get((Integer) step);
      }
    }
    return node;
  }

  /** The entries of a dict or OrderedDict, or null. */
  public static PyEntries entries(PyObject node) {
    if (node instanceof PyDict dict) {
      return dict.entries();
    }
    return node instanceof PyInstance instance && instance.isOf("collections", "OrderedDict")
        ? instance.dictItems()
        : null;
  }

  public static String text(PyObject node) {
    return node instanceof PyStr s ? s.value() : ((PyInt) node).value().toString();
  }

  public long number(Object... path) {
    return ((PyInt) at(path)).value().longValueExact();
  }

  /** The bytes of a storage. */
  public byte[] storage(String key) {
    TorchFile.Entry entry = file.storage(key).orElseThrow();
    int from = Math.toIntExact(entry.payloadOffset());
    return Arrays.copyOfRange(bytes, from, from + Math.toIntExact(entry.bytes()));
  }

  /** The bytes of a contiguous tensor. */
  public byte[] tensor(TensorNode tensor) {
    if (!tensor.isContiguous()) {
      throw new IllegalArgumentException("not contiguous");
    }
    int width = tensor.dtype().bytes();
    int from = Math.toIntExact(tensor.storageOffset() * width);
    return Arrays.copyOfRange(
        storage(tensor.storageKey()), from, from + Math.toIntExact(tensor.numel() * width));
  }

  /** Every tensor in dicts and lists by its path, such as {@code module.emb.weight}. */
  public Map<String, TensorNode> tensors() {
    Map<String, TensorNode> found = new LinkedHashMap<>();
    addTensors("", root, found);
    return found;
  }

  private static void addTensors(String path, PyObject node, Map<String, TensorNode> into) {
    if (TensorNode.of(node).isPresent()) {
      into.put(path, TensorNode.of(node).get());
    } else if (entries(node) != null) {
      for (PyEntries.Entry e : entries(node)) {
        addTensors(path.isEmpty() ? text(e.key()) : path + "." + text(e.key()), e.value(), into);
      }
    } else if (node instanceof PyList list) {
      for (int i = 0; i < list.size(); i++) {
        addTensors(path + "[" + i + "]", list.get(i), into);
      }
    }
  }

  /** The paths of the tensors on a storage, for messages. */
  public String users(String storageKey) {
    return tensors().entrySet().stream()
        .filter(e -> e.getValue().storageKey().equals(storageKey))
        .map(Map.Entry::getKey)
        .collect(Collectors.joining(", "));
  }
}
