package io.github.reshard.checkpoint.pickle;

import io.github.reshard.checkpoint.RefusedException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Deque;
import java.util.HashMap;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Writes an object graph byte for byte as the C pickler of CPython 3.11 does ({@code
 * Modules/_pickle.c}), which is what {@code torch.save} uses: its memo, its batches, its choice of
 * opcodes, and from protocol 4 on its frames.
 *
 * <p>The nesting of the graph costs no Java stack.
 */
public final class PickleWriter {
  /** Something to do later, between two objects. */
  interface Step {
    void run();
  }

  private record GlobalKey(String module, String name) {}

  private final int protocol;
  private final Set<PyObject> memoizeAnyway;
  private final Deque<Object> todo = new ArrayDeque<>();
  private final IdentityHashMap<PyObject, Integer> memo = new IdentityHashMap<>();
  private final Map<GlobalKey, Integer> globals = new HashMap<>();
  private final Set<PyObject> underConstruction =
      Collections.newSetFromMap(new IdentityHashMap<>());
  private final Set<PyObject> notMemoized = Collections.newSetFromMap(new IdentityHashMap<>());
  private final PyStr latin1 = new PyStr("latin1");
  private final PickleOutput out = new PickleOutput();
  private final PickleBatches batches = new PickleBatches(out);
  private int memoSize;

  private PickleWriter(int protocol, Set<PyObject> memoizeAnyway) {
    this.protocol = protocol;
    this.memoizeAnyway = memoizeAnyway;
  }

  /**
   * The pickle of {@code root}.
   *
   * @param protocol 2 to 5
   * @throws RefusedException if the graph needs what the protocol has no opcode for
   */
  public static byte[] write(PyObject root, int protocol) {
    if (protocol < 2 || protocol > 5) {
      throw new RefusedException(
          "pickle",
          "expected protocol 2 to 5, found %d; save again with torch.save's default"
              .formatted(protocol));
    }
    Set<PyObject> memoizeAnyway = Collections.newSetFromMap(new IdentityHashMap<>());
    while (true) {
      PickleWriter writer = new PickleWriter(protocol, memoizeAnyway);
      int before = memoizeAnyway.size();
      byte[] bytes = writer.run(root);
      if (memoizeAnyway.size() == before) {
        return bytes;
      }
    }
  }

  private byte[] run(PyObject root) {
    out.opWithByte(Opcode.PROTO, protocol);
    if (protocol >= 4) {
      out.startFraming();
    }
    todo.push(root);
    while (!todo.isEmpty()) {
      Object next = todo.pop();
      if (next instanceof PyObject node) {
        out.closeFullFrame();
        save(node);
      } else {
        ((Step) next).run();
      }
    }
    out.op(Opcode.STOP);
    out.closeFrame();
    return out.toByteArray();
  }

  private void schedule(List<Object> steps) {
    for (int i = steps.size() - 1; i >= 0; i--) {
      todo.push(steps.get(i));
    }
  }

  private Step does(Opcode op) {
    return () -> out.op(op);
  }

  private void save(PyObject node) {
    if (node instanceof PyNone) {
      out.op(Opcode.NONE);
    } else if (node instanceof PyBool b) {
      out.op(b == PyBool.TRUE ? Opcode.NEWTRUE : Opcode.NEWFALSE);
    } else if (node instanceof PyInt i) {
      out.writeInt(i);
    } else if (node instanceof PyFloat f) {
      out.writeFloat(f.value());
    } else {
      Integer known = memo.get(node);
      if (known == null) {
        saveNew(node);
      } else {
        get(known);
      }
    }
  }

  private void saveNew(PyObject node) {
    if (node instanceof PyStr s) {
      saveText(s);
    } else if (node instanceof PyBytes b) {
      saveBytes(b);
    } else if (node instanceof PyTuple t) {
      saveTuple(t);
    } else if (node instanceof PyList l) {
      out.op(Opcode.EMPTY_LIST);
      put(l);
      schedule(batches.exactList(l.items()));
    } else if (node instanceof PyDict d) {
      out.op(Opcode.EMPTY_DICT);
      put(d);
      schedule(batches.exactDict(d.entries().list()));
    } else if (node instanceof PySet s) {
      saveSet(s);
    } else if (node instanceof PyGlobal g) {
      saveGlobal(g);
    } else if (node instanceof PyPersistentId p) {
      schedule(List.of(p.id(), does(Opcode.BINPERSID)));
    } else if (node instanceof PyInstance instance) {
      saveInstance(instance);
    }
  }

  private void saveText(PyStr node) {
    byte[] text = Utf8.encode(node.value());
    out.payload(
        protocol >= 4 && text.length < 256 ? Opcode.SHORT_BINUNICODE : Opcode.BINUNICODE,
        protocol >= 4 && text.length < 256 ? 1 : 4,
        text);
    put(node);
  }

  private void saveBytes(PyBytes node) {
    byte[] bytes = node.value();
    if (node.mutable()) {
      if (protocol >= 5) {
        out.payload(Opcode.BYTEARRAY8, 8, bytes);
        put(node);
      } else {
        PyTuple args = bytes.length == 0 ? PyTuple.of() : PyTuple.of(new PyBytes(bytes, false));
        saveAsReduce(node, builtin("bytearray"), args);
      }
    } else if (protocol >= 3) {
      boolean isShort = bytes.length < 256;
      out.payload(isShort ? Opcode.SHORT_BINBYTES : Opcode.BINBYTES, isShort ? 1 : 4, bytes);
      put(node);
    } else if (bytes.length == 0) {
      saveAsReduce(node, builtin("bytes"), PyTuple.of());
    } else {
      saveAsReduce(
          node,
          new PyGlobal("_codecs", "encode"),
          PyTuple.of(new PyStr(new String(bytes, StandardCharsets.ISO_8859_1)), latin1));
    }
  }

  /** {@code fix_imports} gives the module its Python 2 name in protocols before 3. */
  private PyGlobal builtin(String name) {
    return new PyGlobal(protocol < 3 ? "__builtin__" : "builtins", name);
  }

  private void saveTuple(PyTuple tuple) {
    int size = tuple.size();
    if (size == 0) {
      out.op(Opcode.EMPTY_TUPLE);
      return;
    }
    List<Object> steps = new ArrayList<>(size + 1);
    steps.addAll(tuple.items());
    if (size > 3) {
      out.op(Opcode.MARK);
    }
    steps.add((Step) () -> closeTuple(tuple));
    schedule(steps);
  }

  /**
   * A tuple that is in the memo by now contains itself: its parts are dropped and the finished one
   * is fetched.
   */
  private void closeTuple(PyTuple tuple) {
    int size = tuple.size();
    Integer finished = memo.get(tuple);
    if (finished == null) {
      out.op(
          switch (size) {
            case 1 -> Opcode.TUPLE1;
            case 2 -> Opcode.TUPLE2;
            case 3 -> Opcode.TUPLE3;
            default -> Opcode.TUPLE;
          });
      put(tuple);
      return;
    }
    if (size > 3) {
      out.op(Opcode.POP_MARK);
    } else {
      for (int i = 0; i < size; i++) {
        out.op(Opcode.POP);
      }
    }
    get(finished);
  }

  private void saveSet(PySet set) {
    if (protocol < 4) {
      saveAsReduce(
          set, builtin(set.frozen() ? "frozenset" : "set"), PyTuple.of(PyList.of(set.items())));
      return;
    }
    List<Object> steps = new ArrayList<>();
    if (set.frozen()) {
      out.op(Opcode.MARK);
      steps.addAll(set.items());
      steps.add(
          (Step)
              () -> {
                Integer finished = memo.get(set);
                if (finished == null) {
                  out.op(Opcode.FROZENSET);
                  put(set);
                } else {
                  out.op(Opcode.POP_MARK);
                  get(finished);
                }
              });
      schedule(steps);
      return;
    }
    out.op(Opcode.EMPTY_SET);
    put(set);
    schedule(batches.setItems(set.items()));
  }

  private void saveGlobal(PyGlobal global) {
    GlobalKey key = new GlobalKey(global.module(), global.name());
    Integer known = globals.get(key);
    if (known != null) {
      get(known);
      return;
    }
    if (protocol >= 4) {
      schedule(
          List.of(
              global.moduleNode(),
              global.nameNode(),
              (Step)
                  () -> {
                    out.op(Opcode.STACK_GLOBAL);
                    globals.put(key, memoSize);
                    put(global);
                  }));
      return;
    }
    String lines = global.module() + "\n" + global.name() + "\n";
    boolean writable =
        lines.indexOf('\n') == global.module().length()
            && lines.indexOf('\n', global.module().length() + 1) == lines.length() - 1
            && (protocol == 3 || lines.chars().allMatch(c -> c < 0x80));
    if (!writable) {
      throw new RefusedException(
          "pickle", "protocol %d has no way to write the name '%s'".formatted(protocol, global));
    }
    out.op(Opcode.GLOBAL);
    out.raw(Utf8.encode(lines));
    globals.put(key, memoSize);
    put(global);
  }

  private void saveInstance(PyInstance instance) {
    if (notMemoized.contains(instance)) {
      // Met twice: it has to be one object, so this attempt is void and the next one gives it a
      // memo entry.
      memoizeAnyway.add(instance);
    }
    if (!underConstruction.add(instance)) {
      throw new RefusedException(
          "pickle",
          PyEquality.describe(instance)
              + " is among its own constructor arguments, which can not be pickled");
    }
    List<Object> steps = new ArrayList<>();
    steps.add(instance.callable());
    steps.add(instance.args());
    switch (instance.construction()) {
      case REDUCE -> steps.add(does(Opcode.REDUCE));
      case NEWOBJ -> steps.add(does(Opcode.NEWOBJ));
      case NEWOBJ_EX -> {
        if (protocol < 4) {
          throw new RefusedException(
              "pickle",
              "protocol %d has no NEWOBJ_EX, which %s needs"
                  .formatted(protocol, PyEquality.describe(instance)));
        }
        steps.add(instance.kwargs());
        steps.add(does(Opcode.NEWOBJ_EX));
      }
    }
    steps.add(
        (Step)
            () -> {
              underConstruction.remove(instance);
              if (instance.memoized() || memoizeAnyway.contains(instance)) {
                put(instance);
              } else {
                notMemoized.add(instance);
              }
            });
    if (instance.hasItems()) {
      batches.addListItems(steps, instance.listItems());
      batches.addDictItems(steps, instance.dictItems().list());
    }
    if (instance.state() != null) {
      steps.add(instance.state());
      steps.add(does(Opcode.BUILD));
    }
    schedule(steps);
  }

  /** Saves a node for which the protocol has no opcode as the call that makes it. */
  private void saveAsReduce(PyObject node, PyGlobal callable, PyTuple args) {
    if (!underConstruction.add(node)) {
      throw new RefusedException(
          "pickle",
          PyEquality.describe(node)
              + " contains itself, which protocol %d can not pickle".formatted(protocol));
    }
    schedule(
        List.of(
            callable,
            args,
            (Step)
                () -> {
                  out.op(Opcode.REDUCE);
                  underConstruction.remove(node);
                  put(node);
                }));
  }

  private void put(PyObject node) {
    int index = memoSize++;
    memo.put(node, index);
    if (protocol >= 4) {
      out.op(Opcode.MEMOIZE);
    } else {
      out.withIndex(Opcode.BINPUT, Opcode.LONG_BINPUT, index);
    }
  }

  private void get(int index) {
    out.withIndex(Opcode.BINGET, Opcode.LONG_BINGET, index);
  }
}
