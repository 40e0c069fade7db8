package io.github.reshard.checkpoint.pickle;

import io.github.reshard.checkpoint.RefusedException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
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
  /** {@code BATCHSIZE} of {@code _pickle.c}. */
  private static final int BATCH = 1000;

  private static final int FRAME_HEADER = 9;
  private static final int FRAME_TARGET = 64 * 1024;
  private static final int FRAME_MINIMUM = 4;

  private static final BigInteger INT_MIN = BigInteger.valueOf(Integer.MIN_VALUE);
  private static final BigInteger INT_MAX = BigInteger.valueOf(Integer.MAX_VALUE);

  /** Something to do later, between two objects. */
  private interface Step {
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
  private byte[] out = new byte[1024];
  private int length;
  private int memoSize;
  private boolean framing;
  private int frameStart = -1;

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
    opWithByte(Opcode.PROTO, protocol);
    framing = protocol >= 4;
    todo.push(root);
    while (!todo.isEmpty()) {
      Object next = todo.pop();
      if (next instanceof PyObject node) {
        if (framing && frameStart >= 0 && length - frameStart - FRAME_HEADER >= FRAME_TARGET) {
          closeFrame();
        }
        save(node);
      } else {
        ((Step) next).run();
      }
    }
    op(Opcode.STOP);
    closeFrame();
    return Arrays.copyOf(out, length);
  }

  private void schedule(List<Object> steps) {
    for (int i = steps.size() - 1; i >= 0; i--) {
      todo.push(steps.get(i));
    }
  }

  private Step does(Opcode op) {
    return () -> op(op);
  }

  private void save(PyObject node) {
    if (node instanceof PyNone) {
      op(Opcode.NONE);
    } else if (node instanceof PyBool b) {
      op(b == PyBool.TRUE ? Opcode.NEWTRUE : Opcode.NEWFALSE);
    } else if (node instanceof PyInt i) {
      saveInt(i.value());
    } else if (node instanceof PyFloat f) {
      op(Opcode.BINFLOAT);
      littleEndian(Long.reverseBytes(Double.doubleToRawLongBits(f.value())), 8);
    } else if (memo.containsKey(node)) {
      get(memo.get(node));
    } else if (node instanceof PyStr s) {
      saveText(s);
    } else if (node instanceof PyBytes b) {
      saveBytes(b);
    } else if (node instanceof PyTuple t) {
      saveTuple(t);
    } else if (node instanceof PyList l) {
      op(Opcode.EMPTY_LIST);
      put(l);
      saveExactList(l.items());
    } else if (node instanceof PyDict d) {
      op(Opcode.EMPTY_DICT);
      put(d);
      saveExactDict(d.entries().list());
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

  private void saveInt(BigInteger value) {
    if (value.compareTo(INT_MIN) >= 0 && value.compareTo(INT_MAX) <= 0) {
      int small = value.intValue();
      if (small >>> 16 != 0) {
        op(Opcode.BININT);
        littleEndian(small, 4);
      } else if (small >>> 8 != 0) {
        op(Opcode.BININT2);
        littleEndian(small, 2);
      } else {
        opWithByte(Opcode.BININT1, small);
      }
      return;
    }
    byte[] bigEndian = value.toByteArray();
    byte[] littleEndian = new byte[bigEndian.length];
    for (int i = 0; i < bigEndian.length; i++) {
      littleEndian[i] = bigEndian[bigEndian.length - 1 - i];
    }
    if (littleEndian.length < 256) {
      opWithByte(Opcode.LONG1, littleEndian.length);
    } else {
      op(Opcode.LONG4);
      littleEndian(littleEndian.length, 4);
    }
    raw(littleEndian);
  }

  private void saveText(PyStr node) {
    byte[] text = Utf8.encode(node.value());
    payload(
        protocol >= 4 && text.length < 256 ? Opcode.SHORT_BINUNICODE : Opcode.BINUNICODE,
        protocol >= 4 && text.length < 256 ? 1 : 4,
        text);
    put(node);
  }

  private void saveBytes(PyBytes node) {
    byte[] bytes = node.value();
    if (node.mutable()) {
      if (protocol >= 5) {
        payload(Opcode.BYTEARRAY8, 8, bytes);
        put(node);
      } else {
        PyTuple args = bytes.length == 0 ? PyTuple.of() : PyTuple.of(new PyBytes(bytes, false));
        saveAsReduce(node, builtin("bytearray"), args);
      }
    } else if (protocol >= 3) {
      boolean isShort = bytes.length < 256;
      payload(isShort ? Opcode.SHORT_BINBYTES : Opcode.BINBYTES, isShort ? 1 : 4, bytes);
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
      op(Opcode.EMPTY_TUPLE);
      return;
    }
    List<Object> steps = new ArrayList<>(size + 1);
    steps.addAll(tuple.items());
    if (size > 3) {
      op(Opcode.MARK);
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
      op(
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
      op(Opcode.POP_MARK);
    } else {
      for (int i = 0; i < size; i++) {
        op(Opcode.POP);
      }
    }
    get(finished);
  }

  /** {@code batch_list_exact}. */
  private void saveExactList(List<PyObject> items) {
    if (items.isEmpty()) {
      return;
    }
    if (items.size() == 1) {
      schedule(List.of(items.get(0), does(Opcode.APPEND)));
      return;
    }
    List<Object> steps = new ArrayList<>();
    for (int from = 0; from < items.size(); from += BATCH) {
      steps.add(does(Opcode.MARK));
      steps.addAll(items.subList(from, Math.min(from + BATCH, items.size())));
      steps.add(does(Opcode.APPENDS));
    }
    schedule(steps);
  }

  /** {@code batch_dict_exact}, which writes an empty batch after a last one that is full. */
  private void saveExactDict(List<PyEntries.Entry> entries) {
    if (entries.isEmpty()) {
      return;
    }
    List<Object> steps = new ArrayList<>();
    if (entries.size() == 1) {
      addEntry(steps, entries.get(0));
      steps.add(does(Opcode.SETITEM));
      schedule(steps);
      return;
    }
    for (int from = 0; from <= entries.size(); from += BATCH) {
      int to = Math.min(from + BATCH, entries.size());
      steps.add(does(Opcode.MARK));
      for (PyEntries.Entry entry : entries.subList(from, to)) {
        addEntry(steps, entry);
      }
      steps.add(does(Opcode.SETITEMS));
    }
    schedule(steps);
  }

  private static void addEntry(List<Object> steps, PyEntries.Entry entry) {
    steps.add(entry.key());
    steps.add(entry.value());
  }

  /** {@code batch_list}: a last batch of one item has no mark. */
  private void addListItems(List<Object> steps, List<PyObject> items) {
    for (int from = 0; from < items.size(); from += BATCH) {
      int to = Math.min(from + BATCH, items.size());
      if (to - from == 1) {
        steps.add(items.get(from));
        steps.add(does(Opcode.APPEND));
      } else {
        steps.add(does(Opcode.MARK));
        steps.addAll(items.subList(from, to));
        steps.add(does(Opcode.APPENDS));
      }
    }
  }

  /** {@code batch_dict}: a last batch of one entry has no mark, and there is no empty batch. */
  private void addDictItems(List<Object> steps, List<PyEntries.Entry> entries) {
    for (int from = 0; from < entries.size(); from += BATCH) {
      int to = Math.min(from + BATCH, entries.size());
      boolean single = to - from == 1;
      if (!single) {
        steps.add(does(Opcode.MARK));
      }
      for (PyEntries.Entry entry : entries.subList(from, to)) {
        addEntry(steps, entry);
      }
      steps.add(does(single ? Opcode.SETITEM : Opcode.SETITEMS));
    }
  }

  private void saveSet(PySet set) {
    if (protocol < 4) {
      saveAsReduce(
          set, builtin(set.frozen() ? "frozenset" : "set"), PyTuple.of(PyList.of(set.items())));
      return;
    }
    List<Object> steps = new ArrayList<>();
    if (set.frozen()) {
      op(Opcode.MARK);
      steps.addAll(set.items());
      steps.add(
          (Step)
              () -> {
                Integer finished = memo.get(set);
                if (finished == null) {
                  op(Opcode.FROZENSET);
                  put(set);
                } else {
                  op(Opcode.POP_MARK);
                  get(finished);
                }
              });
      schedule(steps);
      return;
    }
    op(Opcode.EMPTY_SET);
    put(set);
    List<PyObject> items = set.items();
    if (items.isEmpty()) {
      return;
    }
    for (int from = 0; from <= items.size(); from += BATCH) {
      steps.add(does(Opcode.MARK));
      steps.addAll(items.subList(from, Math.min(from + BATCH, items.size())));
      steps.add(does(Opcode.ADDITEMS));
    }
    schedule(steps);
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
                    op(Opcode.STACK_GLOBAL);
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
    op(Opcode.GLOBAL);
    raw(Utf8.encode(lines));
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
    addListItems(steps, instance.listItems());
    addDictItems(steps, instance.dictItems().list());
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
                  op(Opcode.REDUCE);
                  underConstruction.remove(node);
                  put(node);
                }));
  }

  private void put(PyObject node) {
    int index = memoSize++;
    memo.put(node, index);
    if (protocol >= 4) {
      op(Opcode.MEMOIZE);
    } else if (index < 256) {
      opWithByte(Opcode.BINPUT, index);
    } else {
      op(Opcode.LONG_BINPUT);
      littleEndian(index, 4);
    }
  }

  private void get(int index) {
    if (index < 256) {
      opWithByte(Opcode.BINGET, index);
    } else {
      op(Opcode.LONG_BINGET);
      littleEndian(index, 4);
    }
  }

  /** {@code _Pickler_write_bytes}: large payloads stand outside of frames. */
  private void payload(Opcode op, int lengthBytes, byte[] payload) {
    boolean wasFraming = framing;
    if (payload.length >= FRAME_TARGET) {
      closeFrame();
      framing = false;
    }
    op(op);
    littleEndian(payload.length, lengthBytes);
    raw(payload);
    framing = wasFraming;
  }

  private void closeFrame() {
    if (frameStart < 0) {
      return;
    }
    int size = length - frameStart - FRAME_HEADER;
    if (size >= FRAME_MINIMUM) {
      int end = length;
      length = frameStart;
      frameStart = -1;
      boolean wasFraming = framing;
      framing = false;
      op(Opcode.FRAME);
      littleEndian(size, 8);
      framing = wasFraming;
      length = end;
    } else {
      System.arraycopy(out, frameStart + FRAME_HEADER, out, frameStart, size);
      length -= FRAME_HEADER;
      frameStart = -1;
    }
  }

  private void op(Opcode op) {
    reserve(1);
    out[length++] = (byte) op.code;
  }

  private void opWithByte(Opcode op, int argument) {
    op(op);
    littleEndian(argument, 1);
  }

  private void littleEndian(long value, int bytes) {
    reserve(bytes);
    for (int i = 0; i < bytes; i++) {
      out[length++] = (byte) (value >> (8 * i));
    }
  }

  private void raw(byte[] bytes) {
    reserve(bytes.length);
    System.arraycopy(bytes, 0, out, length, bytes.length);
    length += bytes.length;
  }

  private void reserve(int more) {
    boolean opensFrame = framing && frameStart < 0;
    long needed = (long) length + more + (opensFrame ? FRAME_HEADER : 0);
    if (needed > Integer.MAX_VALUE - 16) {
      throw new RefusedException("pickle", "the pickle is larger than 2 GiB");
    }
    if (needed > out.length) {
      out =
          Arrays.copyOf(
              out, (int) Math.min(Integer.MAX_VALUE - 16, Math.max(needed, 2L * out.length)));
    }
    if (opensFrame) {
      frameStart = length;
      length += FRAME_HEADER;
    }
  }
}
