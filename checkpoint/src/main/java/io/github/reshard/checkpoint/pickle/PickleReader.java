package io.github.reshard.checkpoint.pickle;

import io.github.reshard.checkpoint.RefusedException;
import java.util.ArrayList;
import java.util.List;

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

  private final PickleInput in;
  private final List<PyObject> stack = new ArrayList<>();
  private final List<Integer> marks = new ArrayList<>();
  private final PickleMemo memo = new PickleMemo();
  private int protocol;

  private PickleReader(PickleInput in) {
    this.in = in;
  }

  /**
   * Reads the one pickle that {@code bytes} is.
   *
   * @param where the file and entry, for messages
   * @throws RefusedException if the bytes are damaged, or need something that is not understood;
   *     the message has the byte offset in the pickle and the opcode
   */
  public static Pickle read(byte[] bytes, String where) {
    PickleReader reader = new PickleReader(new PickleInput(bytes, where));
    PyObject root = reader.run();
    return new Pickle(reader.protocol, root);
  }

  private PyObject run() {
    while (true) {
      Opcode opcode = in.next();
      if (opcode == Opcode.STOP) {
        PyObject root = pop();
        if (!stack.isEmpty() || !marks.isEmpty()) {
          throw refused("expected one object on the stack, found %d more".formatted(stack.size()));
        }
        if (in.remaining() > 0) {
          throw refused(
              "expected the end, found %d more bytes after the object".formatted(in.remaining()));
        }
        return root;
      }
      step(opcode);
    }
  }

  private void step(Opcode opcode) {
    switch (opcode) {
      case PROTO -> {
        protocol = in.byteAt();
        if (protocol > HIGHEST_PROTOCOL) {
          throw refused(
              "expected protocol 0 to %d, found %d".formatted(HIGHEST_PROTOCOL, protocol));
        }
      }
      case FRAME -> {
        long length = in.littleEndian(8);
        if (length < 0 || length > in.remaining()) {
          throw refused(
              "a frame of %s bytes, but %d remain"
                  .formatted(Long.toUnsignedString(length), in.remaining()));
        }
      }
      case MARK -> marks.add(stack.size());
      case POP -> popOne();
      case POP_MARK -> popToMark();
      case DUP -> push(top());
      case NONE -> push(PyNone.NONE);
      case NEWTRUE -> push(PyBool.TRUE);
      case NEWFALSE -> push(PyBool.FALSE);
      case BININT -> push(PyInt.of(in.int32()));
      case BININT1 -> push(PyInt.of(in.littleEndian(1)));
      case BININT2 -> push(PyInt.of(in.littleEndian(2)));
      case LONG1 -> push(in.longOf(in.littleEndian(1)));
      case LONG4 -> push(in.longOf(in.int32()));
      case INT -> push(in.intLine());
      case LONG -> push(in.longLine());
      case FLOAT -> push(in.floatLine());
      case BINFLOAT ->
          push(new PyFloat(Double.longBitsToDouble(Long.reverseBytes(in.littleEndian(8)))));
      case SHORT_BINUNICODE -> push(in.text(in.littleEndian(1)));
      case BINUNICODE -> push(in.text(in.littleEndian(4)));
      case BINUNICODE8 -> push(in.text(in.littleEndian(8)));
      case SHORT_BINSTRING -> push(in.text(in.littleEndian(1)));
      case BINSTRING -> push(in.text(in.int32()));
      case SHORT_BINBYTES -> push(in.bytes(in.littleEndian(1), false));
      case BINBYTES -> push(in.bytes(in.littleEndian(4), false));
      case BINBYTES8 -> push(in.bytes(in.littleEndian(8), false));
      case BYTEARRAY8 -> push(in.bytes(in.littleEndian(8), true));
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
      case GLOBAL -> push(new PyGlobal(in.line(), in.line()));
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
      case PUT -> memoize(in.number());
      case BINPUT -> memoize(in.littleEndian(1));
      case LONG_BINPUT -> memoize(in.littleEndian(4));
      case MEMOIZE -> memoize(memo.size());
      case GET -> push(memoized(in.number()));
      case BINGET -> push(memoized(in.littleEndian(1)));
      case LONG_BINGET -> push(memoized(in.littleEndian(4)));
      case EXT1, EXT2, EXT4 ->
          throw refused(
              "a class of the copyreg extension registry, whose name is not in the file; save again"
                  + " without it");
      case NEXT_BUFFER, READONLY_BUFFER ->
          throw refused(
              "an out-of-band buffer, which is not in the file; save again without"
                  + " buffer_callback");
      case INST, OBJ, STRING, UNICODE, PERSID ->
          throw refused(
              "an opcode that torch.save does not write; save again with torch.save's default"
                  + " protocol 2");
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
              + " is made and dropped (a state setter, or an object whose arguments contain it):"
              + " not supported");
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
    if (node instanceof PyInt number
        && !number.isLong()
        && number.value().bitLength() > Long.SIZE) {
      // CPython memoizes no number. One that is written out at each use would make a small pickle
      // large.
      throw refused(
          "memo entry %d is a number of %d bits, which is never shared"
              .formatted(index, number.value().bitLength()));
    }
    return node;
  }

  private RefusedException refused(String problem) {
    return in.refused(problem);
  }
}
