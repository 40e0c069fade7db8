package io.github.reshard.checkpoint.torch;

import static org.assertj.core.api.Assertions.assertThat;

import com.code_intelligence.jazzer.junit.FuzzTest;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyPersistentId;
import io.github.reshard.checkpoint.pickle.PySet;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.testing.Corpus;
import java.io.EOFException;
import java.io.IOException;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Deque;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Set;
import java.util.stream.Stream;
import org.junit.jupiter.params.provider.MethodSource;

/** Any bytes are a container whose entries and tensors lie within it, or they are refused. */
class TorchFileFuzzTest {
  static Stream<byte[]> seeds() {
    return Corpus.smallTorchFiles().flatMap(bytes -> Stream.of(bytes, withoutCrcs(bytes)));
  }

  /** As PyTorch writes it with {@code compute_crc32} off: a changed pickle is not stopped early. */
  private static byte[] withoutCrcs(byte[] bytes) {
    byte[] without = bytes.clone();
    for (int at = 0; at < bytes.length - 46; at++) {
      if (LittleEndian.u32(bytes, at) == 0x02014b50) {
        Arrays.fill(without, at + 16, at + 20, (byte) 0);
      }
    }
    return without;
  }

  @MethodSource("seeds")
  @FuzzTest
  void readsOrRefuses(byte[] bytes) throws IOException {
    MemoryFile memory = new MemoryFile(bytes);
    TorchFile file;
    try {
      file = TorchFile.read(memory);
    } catch (RefusedException | EOFException expected) {
      return;
    }
    long end = 0;
    for (TorchFile.Entry entry : file.entries()) {
      assertThat(entry.headerOffset()).as("header of %s", entry.name()).isGreaterThanOrEqualTo(end);
      assertThat(entry.payloadOffset()).isGreaterThan(entry.headerOffset());
      end = entry.payloadOffset() + entry.bytes();
      assertThat(end).as("end of %s", entry.name()).isBetween(0L, (long) bytes.length);
    }
    readTensors(file);
  }

  private static void readTensors(TorchFile file) {
    try {
      for (PyObject node : reachable(file.parse().root())) {
        TensorNode.of(node).ifPresent(TorchFileFuzzTest::read);
        StorageNode.of(node).ifPresent(storage -> assertThat(storage.bytes()).isNotNegative());
      }
    } catch (RefusedException expected) {
      // Of one tensor as of all: the file is refused.
    }
  }

  private static void read(TensorNode tensor) {
    tensor.requireInBounds("fuzzed");
    assertThat(tensor.numel()).isNotNegative();
    if (tensor.isContiguous()) {
      assertThat(tensor.numel()).isLessThanOrEqualTo(tensor.storageElements());
    }
    tensor.setGeometry(tensor.storageOffset(), tensor.shape());
  }

  private static List<PyObject> reachable(PyObject root) {
    List<PyObject> found = new ArrayList<>();
    Set<PyObject> seen = Collections.newSetFromMap(new IdentityHashMap<>());
    Deque<PyObject> todo = new ArrayDeque<>();
    todo.push(root);
    while (!todo.isEmpty()) {
      PyObject node = todo.pop();
      if (!seen.add(node)) {
        continue;
      }
      found.add(node);
      if (node instanceof PyTuple tuple) {
        tuple.items().forEach(todo::push);
      } else if (node instanceof PyList list) {
        list.items().forEach(todo::push);
      } else if (node instanceof PySet set) {
        set.items().forEach(todo::push);
      } else if (node instanceof PyPersistentId id) {
        todo.push(id.id());
      } else if (node instanceof PyDict dict) {
        dict.entries().forEach(entry -> todo.push(entry.value()));
      } else if (node instanceof PyInstance instance) {
        todo.push(instance.args());
        instance.listItems().forEach(todo::push);
        instance.dictItems().forEach(entry -> todo.push(entry.value()));
        if (instance.state() != null) {
          todo.push(instance.state());
        }
      }
    }
    return found;
  }
}
