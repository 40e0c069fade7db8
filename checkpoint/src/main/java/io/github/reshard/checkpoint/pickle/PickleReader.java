package io.github.reshard.checkpoint.pickle;

import io.github.reshard.checkpoint.RefusedException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads a pickle as an object graph, without running anything. The opcodes of protocols 2 to 5 are
 * understood as CPython's {@code pickle.py} (3.11) defines them, and of protocols 0 and 1 those
 * that C picklers of Python 3 write.
 *
 * <p>Every opcode makes at most one node and the nesting of the graph costs no Java stack, so
 * memory is linear in the length of the input.
 */
public final class PickleReader {
  private static final int HIGHEST_PROTOCOL = 5;

  private final byte[] in;
  private final String where;
  private final List<PyObject> stack = new ArrayList<>();
  private final List<Integer> marks = new ArrayList<>();
  private final Map<Long, PyObject> memo = new HashMap<>();
  private int protocol;
  private int position;
  private int opcodeAt;
  private Opcode opcode;

  private PickleReader(byte[] in, String where) {
    this.in = in;
    this.where = where;
  }

  /**
   * Reads the one pickle that {@code bytes} is.
   *
   * @param where the file and entry, for messages
   * @throws RefusedException if the bytes are damaged, or need something that is not understood;
   *     the message has the byte offset in the pickle and the opcode
   */
  public static Pickle read(byte[] bytes, String where) {
    PickleReader reader = new PickleReader(bytes, where);
    PyObject root = reader.run();
    return new Pickle(reader.protocol, root);
  }

  private PyObject run() {
    while (true) {
      opcodeAt = position;
      opcode = null;
      if (position == in.length) {
        throw refused("the pickle ends without STOP, it is cut off; copy the file again");
      }
      int code = in[position++] & 0xff;
      opcode = Opcode.of(code);
      if (opcode == null) {
        throw refused("unknown opcode 0x%02x".formatted(code));
      }
      if (opcode == Opcode.STOP) {
        PyObject root = pop();
        if (!stack.isEmpty() || !marks.isEmpty()) {
          throw refused("expected one object on the stack, found %d more".formatted(stack.size()));
        }
        if (position != in.length) {
          throw refused(
              "expected the end, found %d more bytes after the object"
                  .formatted(in.length - position));
        }
        return root;
      }
      step();
    }
  }

  private void step() {
    switch (opcode) {
      case PROTO -> {
        protocol = byteAt();
        if (protocol > HIGHEST_PROTOCOL) {
          throw refused(
              "expected protocol 0 to %d, found %d".formatted(HIGHEST_PROTOCOL, protocol));
        }
      }
      case FRAME -> {
        long length = littleEndian(8);
        if (length < 0 || length > in.length - position) {
          throw refused(
              "a frame of %s bytes, but %d remain"
                  .formatted(Long.toUnsignedString(length), in.length - position));
        }
      }
      case MARK -> marks.add(stack.size());
      case POP -> popOne();
      case POP_MARK -> popToMark();
      case DUP -> push(top());
      case NONE -> push(PyNone.NONE);
      case NEWTRUE -> push(PyBool.TRUE);
      case NEWFALSE -> push(PyBool.FALSE);
      case BININT -> push(PyInt.of(int32()));
      case BININT1 -> push(PyInt.of(littleEndian(1)));
      case BININT2 -> push(PyInt.of(littleEndian(2)));
      case LONG1 -> push(longOf(littleEndian(1)));
      case LONG4 -> push(longOf(int32()));
      case INT -> pushIntLine();
      case LONG -> pushLongLine();
      case FLOAT -> pushFloatLine();
      case BINFLOAT ->
          push(new PyFloat(Double.longBitsToDouble(Long.reverseBytes(littleEndian(8)))));
      case SHORT_BINUNICODE -> push(text(littleEndian(1)));
      case BINUNICODE -> push(text(littleEndian(4)));
      case BINUNICODE8 -> push(text(littleEndian(8)));
      case SHORT_BINSTRING -> push(text(littleEndian(1)));
      case BINSTRING -> push(text(int32()));
      case SHORT_BINBYTES -> push(bytes(littleEndian(1), false));
      case BINBYTES -> push(bytes(littleEndian(4), false));
      case BINBYTES8 -> push(bytes(littleEndian(8), false));
      case BYTEARRAY8 -> push(bytes(littleEndian(8), true));
      case EMPTY_TUPLE -> push(PyTuple.of());
      case TUPLE1 -> push(tupleOf(1));
      case TUPLE2 -> push(tupleOf(2));
      case TUPLE3 -> push(tupleOf(3));
      case TUPLE -> push(new PyTuple(popToMark()));
      case EMPTY_LIST -> push(new PyList());
      case LIST -> push(PyList.of(popToMark()));
      case APPEND -> {
        PyObject item = pop();
        append(List.of(item));
      }
      case APPENDS -> append(popToMark());
      case EMPTY_DICT -> push(new PyDict());
      case DICT -> {
        List<PyObject> items = popToMark();
        push(new PyDict());
        setItems(items);
      }
      case SETITEM -> {
        PyObject value = pop();
        PyObject key = pop();
        setItems(List.of(key, value));
      }
      case SETITEMS -> setItems(popToMark());
      case EMPTY_SET -> push(new PySet(false));
      case ADDITEMS -> addItems(popToMark());
      case FROZENSET -> {
        PySet set = new PySet(true);
        set.items().addAll(popToMark());
        push(set);
      }
      case GLOBAL -> push(new PyGlobal(line(), line()));
      case STACK_GLOBAL -> {
        PyObject name = pop();
        PyObject module = pop();
        if (!(name instanceof PyStr n) || !(module instanceof PyStr m)) {
          throw refused(
              "expected two strings, found %s and %s"
                  .formatted(PyEquality.describe(module), PyEquality.describe(name)));
        }
        push(new PyGlobal(m, n));
      }
      case REDUCE -> {
        PyTuple args = popTuple();
        push(PyInstance.read(PyInstance.Construction.REDUCE, popCallable(), args, null));
      }
      case NEWOBJ -> {
        PyTuple args = popTuple();
        push(PyInstance.read(PyInstance.Construction.NEWOBJ, popCallable(), args, null));
      }
      case NEWOBJ_EX -> {
        PyObject kwargs = pop();
        if (!(kwargs instanceof PyDict)) {
          throw refused("expected a dict, found " + PyEquality.describe(kwargs));
        }
        PyTuple args = popTuple();
        push(PyInstance.read(PyInstance.Construction.NEWOBJ_EX, popCallable(), args, kwargs));
      }
      case BUILD -> build();
      case BINPERSID -> push(new PyPersistentId(pop()));
      case PUT -> memoize(number(line()));
      case BINPUT -> memoize(littleEndian(1));
      case LONG_BINPUT -> memoize(littleEndian(4));
      case MEMOIZE -> memoize(memo.size());
      case GET -> push(memoized(number(line())));
      case BINGET -> push(memoized(littleEndian(1)));
      case LONG_BINGET -> push(memoized(littleEndian(4)));
      case EXT1, EXT2, EXT4 ->
          throw refused(
              "a class of the copyreg extension registry, whose name is not in the file; save again without it");
      case NEXT_BUFFER, READONLY_BUFFER ->
          throw refused(
              "an out-of-band buffer, which is not in the file; save again without buffer_callback");
      case INST, OBJ, STRING, UNICODE, PERSID ->
          throw refused(
              "an opcode that torch.save does not write; save again with torch.save's default protocol 2");
      case STOP -> throw new IllegalStateException("STOP is handled by run");
    }
  }

  private void append(List<PyObject> items) {
    PyObject target = top();
    if (target instanceof PyList list) {
      list.items().addAll(items);
    } else if (target instanceof PyInstance instance) {
      if (instance.dictItems().size() > 0 || instance.state() != null) {
        throw refused(
            "items for " + PyEquality.describe(target) + " after its dict items or state");
      }
      instance.listItems().addAll(items);
    } else {
      throw refused("expected a list or an object, found " + PyEquality.describe(target));
    }
  }

  private void setItems(List<PyObject> items) {
    PyObject target = top();
    PyEntries entries;
    if (target instanceof PyDict dict) {
      entries = dict.entries();
    } else if (target instanceof PyInstance instance) {
      if (instance.state() != null) {
        throw refused("items for " + PyEquality.describe(target) + " after its state");
      }
      entries = instance.dictItems();
    } else {
      throw refused("expected a dict or an object, found " + PyEquality.describe(target));
    }
    if (items.size() % 2 != 0) {
      throw refused("expected pairs of key and value, found %d objects".formatted(items.size()));
    }
    for (int i = 0; i < items.size(); i += 2) {
      entries.add(items.get(i), items.get(i + 1));
    }
  }

  private void addItems(List<PyObject> items) {
    if (!(top() instanceof PySet set) || set.frozen()) {
      throw refused("expected a set, found " + PyEquality.describe(top()));
    }
    set.items().addAll(items);
  }

  private void build() {
    PyObject state = pop();
    if (!(top() instanceof PyInstance instance)) {
      throw refused("expected an object, found " + PyEquality.describe(top()));
    }
    if (instance.state() != null) {
      throw refused("a second state for " + PyEquality.describe(instance));
    }
    instance.setState(state);
  }

  /**
   * CPython drops an object for one of three reasons. Parts of a tuple that contains itself: the
   * tuple is fetched from the memo next, so nothing is lost. An object whose arguments contain it,
   * or the call of a state setter: what was dropped had an effect, which a symbolic graph can not
   * keep.
   */
  private void popOne() {
    int fence = marks.isEmpty() ? 0 : marks.get(marks.size() - 1);
    if (stack.size() == fence && !marks.isEmpty()) {
      marks.remove(marks.size() - 1);
      return;
    }
    if (pop() instanceof PyInstance dropped && !dropped.memoized()) {
      throw refused(
          PyEquality.describe(dropped)
              + " is made and dropped (a state setter, or an object whose arguments contain it): not supported");
    }
  }

  private PyObject pop() {
    PyObject top = top();
    stack.remove(stack.size() - 1);
    return top;
  }

  private PyObject top() {
    int fence = marks.isEmpty() ? 0 : marks.get(marks.size() - 1);
    if (stack.size() <= fence) {
      throw refused("expected an object on the stack, found none");
    }
    return stack.get(stack.size() - 1);
  }

  private List<PyObject> popToMark() {
    if (marks.isEmpty()) {
      throw refused("expected a MARK on the stack, found none");
    }
    List<PyObject> tail = stack.subList(marks.remove(marks.size() - 1), stack.size());
    List<PyObject> items = new ArrayList<>(tail);
    tail.clear();
    return items;
  }

  private PyTuple tupleOf(int size) {
    PyObject[] items = new PyObject[size];
    for (int i = size - 1; i >= 0; i--) {
      items[i] = pop();
    }
    return PyTuple.of(items);
  }

  private PyTuple popTuple() {
    PyObject args = pop();
    if (args instanceof PyTuple tuple) {
      return tuple;
    }
    throw refused("expected a tuple of arguments, found " + PyEquality.describe(args));
  }

  private PyObject popCallable() {
    PyObject callable = pop();
    if (callable instanceof PyGlobal || callable instanceof PyInstance) {
      return callable;
    }
    throw refused("expected a class or function, found " + PyEquality.describe(callable));
  }

  private void push(PyObject node) {
    stack.add(node);
  }

  private void memoize(long index) {
    PyObject top = top();
    if (top instanceof PyInstance instance) {
      instance.setMemoized();
    }
    memo.put(index, top);
  }

  private PyObject memoized(long index) {
    PyObject node = memo.get(index);
    if (node == null) {
      throw refused("memo entry %d was never set".formatted(index));
    }
    if (node instanceof PyInt number && number.value().bitLength() > Long.SIZE) {
      // CPython memoizes no number. One that is written out at each use would make a small pickle
      // large.
      throw refused(
          "memo entry %d is a number of %d bits, which is never shared"
              .formatted(index, number.value().bitLength()));
    }
    return node;
  }

  private void pushIntLine() {
    String line = line();
    switch (line) {
      case "00" -> push(PyBool.FALSE);
      case "01" -> push(PyBool.TRUE);
      default -> push(PyInt.of(number(line)));
    }
  }

  private void pushLongLine() {
    String line = line();
    String digits = line.endsWith("L") ? line.substring(0, line.length() - 1) : line;
    // Decimal text costs quadratic time to convert; CPython's own limit is 4300 digits.
    if (digits.length() > 4300 || !digits.matches("-?[0-9]+")) {
      throw refused("expected at most 4300 digits, found '%s'".formatted(shortened(line)));
    }
    push(PyInt.of(new BigInteger(digits)));
  }

  private void pushFloatLine() {
    String line = line();
    try {
      push(
          new PyFloat(
              switch (line) {
                case "inf" -> Double.POSITIVE_INFINITY;
                case "-inf" -> Double.NEGATIVE_INFINITY;
                case "nan" -> Double.NaN;
                default -> Double.parseDouble(line);
              }));
    } catch (NumberFormatException e) {
      throw refused("expected a number, found '%s'".formatted(shortened(line)));
    }
  }

  private long number(String line) {
    try {
      return Long.parseLong(line);
    } catch (NumberFormatException e) {
      throw refused("expected a number, found '%s'".formatted(shortened(line)));
    }
  }

  private static String shortened(String text) {
    return text.length() <= 60 ? text : text.substring(0, 60) + "...";
  }

  private PyInt longOf(long length) {
    int from = take(length);
    byte[] bigEndian = new byte[position - from];
    for (int i = 0; i < bigEndian.length; i++) {
      bigEndian[i] = in[position - 1 - i];
    }
    return PyInt.of(bigEndian.length == 0 ? BigInteger.ZERO : new BigInteger(bigEndian));
  }

  private PyStr text(long length) {
    int from = take(length);
    try {
      return new PyStr(Utf8.decode(in, from, position));
    } catch (IllegalArgumentException e) {
      throw refused("expected UTF-8, found " + e.getMessage());
    }
  }

  private PyBytes bytes(long length, boolean mutable) {
    int from = take(length);
    return new PyBytes(Arrays.copyOfRange(in, from, position), mutable);
  }

  private int byteAt() {
    return (int) littleEndian(1);
  }

  private int int32() {
    return (int) littleEndian(4);
  }

  private long littleEndian(int bytes) {
    int from = take(bytes);
    long value = 0;
    for (int i = bytes - 1; i >= 0; i--) {
      value = (value << 8) | (in[from + i] & 0xff);
    }
    return value;
  }

  /** Moves on by {@code length} bytes, which are there; returns where they start. */
  private int take(long length) {
    if (length < 0 || length > in.length - position) {
      throw refused(
          "expected %s more bytes, found %d: the pickle is cut off or damaged"
              .formatted(Long.toUnsignedString(length), in.length - position));
    }
    int from = position;
    position += (int) length;
    return from;
  }

  private String line() {
    int from = position;
    while (position < in.length && in[position] != '\n') {
      position++;
    }
    if (position == in.length) {
      throw refused("expected a line, found the end of the pickle");
    }
    return new String(in, from, position++ - from, StandardCharsets.UTF_8);
  }

  private RefusedException refused(String problem) {
    return new RefusedException(
        where,
        "pickle byte %d%s: %s"
            .formatted(opcodeAt, opcode == null ? "" : ", opcode " + opcode, problem));
  }
}
