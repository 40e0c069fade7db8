package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyObject;
import java.util.ArrayDeque;
import java.util.Collections;
import java.util.Deque;
import java.util.IdentityHashMap;
import java.util.Set;

/** The way to a node of a pickle, for messages. */
public final class PathTo {
  private PathTo() {}

  /** As {@code state[0].exp_avg}; "a value" if it stands in an object that is no container. */
  @SuppressWarnings("ReferenceEquality") // Nodes are compared as objects here.
  public static String node(PickledValue root, PyObject wanted) {
    Set<PyObject> seen = Collections.newSetFromMap(new IdentityHashMap<>());
    Deque<PickledValue> open = new ArrayDeque<>();
    open.add(root);
    while (!open.isEmpty()) {
      PickledValue value = open.removeFirst();
      if (value.node() == wanted) {
        return value.path();
      }
      if (!seen.add(value.node())) {
        continue;
      }
      if (value.isDict()) {
        value.children().forEach(entry -> open.addLast(entry.value()));
      } else if (value.isList()) {
        value.items().forEach(open::addLast);
      } else if (value.node() instanceof PyInstance made && made.state() != null) {
        open.addLast(new PickledValue(value.file(), value.path(), made.state()));
      }
    }
    return "a value";
  }
}
