package io.github.reshard.checkpoint.pickle;

import java.util.ArrayList;
import java.util.List;

/**
 * What is to be written of the items of containers, in the batches of {@code Modules/_pickle.c}
 * (CPython 3.11): objects, and steps between them.
 */
final class PickleBatches {
  /** {@code BATCHSIZE} of {@code _pickle.c}. */
  private static final int BATCH = 1000;

  private final PickleOutput out;

  PickleBatches(PickleOutput out) {
    this.out = out;
  }

  /** {@code batch_list_exact}. */
  List<Object> exactList(List<PyObject> items) {
    if (items.isEmpty()) {
      return List.of();
    }
    if (items.size() == 1) {
      return List.of(items.get(0), does(Opcode.APPEND));
    }
    List<Object> steps = new ArrayList<>();
    for (int from = 0; from < items.size(); from += BATCH) {
      steps.add(does(Opcode.MARK));
      steps.addAll(items.subList(from, Math.min(from + BATCH, items.size())));
      steps.add(does(Opcode.APPENDS));
    }
    return steps;
  }

  /** {@code batch_dict_exact}, which writes an empty batch after a last one that is full. */
  List<Object> exactDict(List<PyEntries.Entry> entries) {
    if (entries.isEmpty()) {
      return List.of();
    }
    List<Object> steps = new ArrayList<>();
    if (entries.size() == 1) {
      addEntry(steps, entries.get(0));
      steps.add(does(Opcode.SETITEM));
      return steps;
    }
    for (int from = 0; from <= entries.size(); from += BATCH) {
      int to = Math.min(from + BATCH, entries.size());
      steps.add(does(Opcode.MARK));
      for (PyEntries.Entry entry : entries.subList(from, to)) {
        addEntry(steps, entry);
      }
      steps.add(does(Opcode.SETITEMS));
    }
    return steps;
  }

  private static void addEntry(List<Object> steps, PyEntries.Entry entry) {
    steps.add(entry.key());
    steps.add(entry.value());
  }

  /** {@code batch_list}: a last batch of one item has no mark. */
  void addListItems(List<Object> steps, List<PyObject> items) {
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
  void addDictItems(List<Object> steps, List<PyEntries.Entry> entries) {
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

  /** {@code save_set}, which writes an empty batch after a last one that is full. */
  List<Object> setItems(List<PyObject> items) {
    List<Object> steps = new ArrayList<>();
    if (items.isEmpty()) {
      return steps;
    }
    for (int from = 0; from <= items.size(); from += BATCH) {
      steps.add(does(Opcode.MARK));
      steps.addAll(items.subList(from, Math.min(from + BATCH, items.size())));
      steps.add(does(Opcode.ADDITEMS));
    }
    return steps;
  }

  private PickleWriter.Step does(Opcode op) {
    return () -> out.op(op);
  }
}
