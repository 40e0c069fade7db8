package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import java.util.List;

/** Values of a pickle as people read them. */
final class PythonText {
  private static final int DEEPEST = 8;
  private static final int LONGEST_TEXT = 200;

  private PythonText() {}

  /** Whether {@code node} is a list or tuple of plain numbers and texts, shown in one line. */
  static boolean isPlain(PyObject node) {
    List<PyObject> items = node instanceof PyList list ? list.items() : ((PyTuple) node).items();
    return items.stream()
        .allMatch(
            item ->
                item instanceof PyInt
                    || item instanceof PyFloat
                    || item instanceof PyStr
                    || item instanceof PyBool
                    || item instanceof PyNone);
  }

  /** The value as Python would show it, cut where it is long. */
  static String of(PyObject node) {
    StringBuilder text = new StringBuilder();
    write(node, 0, text);
    return text.length() <= LONGEST_TEXT
        ? text.toString()
        : text.substring(0, LONGEST_TEXT) + "...";
  }

  /** Stops soon after the text is long enough, and at a depth that no real value has. */
  private static void write(PyObject node, int depth, StringBuilder text) {
    if (text.length() > LONGEST_TEXT || depth > DEEPEST) {
      text.append("...");
    } else if (node instanceof PyStr s) {
      text.append(s.value());
    } else if (node instanceof PyInt i) {
      text.append(i.value());
    } else if (node instanceof PyFloat f) {
      text.append(f.value());
    } else if (node instanceof PyBool b) {
      text.append(b == PyBool.TRUE ? "True" : "False");
    } else if (node == PyNone.NONE) {
      text.append("None");
    } else if (node instanceof PyList list) {
      writeItems("[", list.items(), "]", depth, text);
    } else if (node instanceof PyTuple tuple) {
      writeItems("(", tuple.items(), ")", depth, text);
    } else if (node instanceof PyGlobal global) {
      text.append("the name ").append(global);
    } else if (node instanceof PyInstance made) {
      write(made.callable(), depth + 1, text);
      if (made.args() != null) {
        write(made.args(), depth + 1, text);
      }
    } else if (node instanceof PyDict dict) {
      String separator = "{";
      for (PyEntries.Entry entry : dict.entries()) {
        if (text.length() > LONGEST_TEXT) {
          break;
        }
        text.append(separator);
        write(entry.key(), depth + 1, text);
        text.append(": ");
        write(entry.value(), depth + 1, text);
        separator = ", ";
      }
      text.append(separator.equals("{") ? "{}" : "}");
    } else {
      text.append("?");
    }
  }

  private static void writeItems(
      String open, List<PyObject> items, String close, int depth, StringBuilder text) {
    text.append(open);
    String separator = "";
    for (PyObject item : items) {
      if (text.length() > LONGEST_TEXT) {
        break;
      }
      text.append(separator);
      write(item, depth + 1, text);
      separator = ", ";
    }
    text.append(close);
  }
}
