package io.github.reshard.testing;

import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.StorageNode;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * Whether two optimizer states are the same: structure, values, sharing of storages and their
 * bytes, padding included. The numbers of storages may differ, and the order of keys in plain
 * dicts, in which two files of DeepSpeed differ too.
 */
public final class ShardComparison {
  private ShardComparison() {}

  /**
   * The first difference, with the way to it.
   *
   * @param key where in {@code expected} the state is, or null for the root
   */
  public static Optional<String> firstDifference(Path expected, String key, Path actual) {
    TorchContent want = TorchContent.read(expected);
    TorchContent have = TorchContent.read(actual);
    Map<String, String> keys = new HashMap<>();
    Set<String> taken = new HashSet<>();
    Optional<String> difference =
        PyEquality.firstDifference(
            key == null ? want.root() : want.at(key),
            have.root(),
            (a, b) -> same(a, b, keys, taken),
            PyEquality.KeyOrder.IGNORED_IN_DICTS);
    if (difference.isPresent()) {
      return difference;
    }
    for (Map.Entry<String, String> pair : keys.entrySet()) {
      int at = Arrays.mismatch(want.storage(pair.getKey()), have.storage(pair.getValue()));
      if (at >= 0) {
        return Optional.of("byte %d of the storage of %s".formatted(at, want.users(pair.getKey())));
      }
    }
    return keys.isEmpty() ? Optional.of("there are no tensors to compare") : Optional.empty();
  }

  private static boolean same(PyObject a, PyObject b, Map<String, String> keys, Set<String> taken) {
    Optional<StorageNode> x = StorageNode.of(a);
    Optional<StorageNode> y = StorageNode.of(b);
    if (x.isEmpty() || y.isEmpty() || x.get().elements() != y.get().elements()) {
      return false;
    }
    String known = keys.putIfAbsent(x.get().key(), y.get().key());
    return known == null ? taken.add(y.get().key()) : known.equals(y.get().key());
  }
}
