package io.github.reshard.checkpoint.pickle;

import io.github.reshard.checkpoint.Megabytes;
import io.github.reshard.checkpoint.planner.UniformCheckpoint;
import java.util.ArrayDeque;
import java.util.Collections;
import java.util.Deque;
import java.util.IdentityHashMap;
import java.util.Set;
import org.openjdk.jmh.annotations.AuxCounters;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.Warmup;

/** Reading and writing the pickle of a model file: a state dict and its shapes. */
@State(Scope.Benchmark)
@Fork(1)
@Warmup(iterations = 2, time = 1)
@Measurement(iterations = 3, time = 1)
public class PickleBenchmark {
  private static final int PROTOCOL = 2;

  @Param("10000")
  public int parameters;

  private PyObject root;
  private byte[] pickle;
  private int nodes;

  /** Nodes of object graphs, however often each is referred to. */
  @AuxCounters
  @State(Scope.Thread)
  public static class Objects {
    public long objects;
  }

  @Setup
  public void setUp() {
    pickle = PickleWriter.write(UniformCheckpoint.modelStates(parameters, 64), PROTOCOL);
    root = PickleReader.read(pickle, "benchmark").root();
    nodes = count(root);
  }

  @Benchmark
  public Pickle read(Megabytes done, Objects made) {
    done.add(pickle.length);
    made.objects += nodes;
    return PickleReader.read(pickle, "benchmark");
  }

  @Benchmark
  public byte[] write(Megabytes done, Objects written) {
    done.add(pickle.length);
    written.objects += nodes;
    return PickleWriter.write(root, PROTOCOL);
  }

  private static int count(PyObject root) {
    Set<PyObject> seen = Collections.newSetFromMap(new IdentityHashMap<>());
    Deque<PyObject> todo = new ArrayDeque<>();
    todo.push(root);
    while (!todo.isEmpty()) {
      PyObject node = todo.pop();
      if (!seen.add(node)) {
        continue;
      }
      if (node instanceof PyDict dict) {
        push(dict.entries(), todo);
      } else if (node instanceof PyList list) {
        list.items().forEach(todo::push);
      } else if (node instanceof PyTuple tuple) {
        tuple.items().forEach(todo::push);
      } else if (node instanceof PyPersistentId persistent) {
        todo.push(persistent.id());
      } else if (node instanceof PyInstance instance) {
        todo.push(instance.callable());
        todo.push(instance.args());
        push(instance.dictItems(), todo);
      }
    }
    return seen.size();
  }

  private static void push(PyEntries entries, Deque<PyObject> todo) {
    for (PyEntries.Entry entry : entries) {
      todo.push(entry.key());
      todo.push(entry.value());
    }
  }
}
