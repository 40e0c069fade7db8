package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PySet;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.torch.StorageKeys;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.regex.Pattern;

/**
 * Puts dicts and numbers in the place of DeepSpeed's own objects, so that {@code
 * torch.load(weights_only=True)} takes the file: an object becomes the dict of its attributes, a
 * member of an enum its number.
 */
final class PlainObjects {
  /** What PyTorch 2.6 loads by itself (torch/_weights_only_unpickler.py, _get_allowed_globals). */
  private static final Set<String> ALLOWED =
      Set.of(
          "collections.OrderedDict",
          "torch.Size",
          "torch.Tensor",
          "torch._utils._rebuild_tensor_v2",
          "torch._utils._rebuild_tensor_v3",
          "torch._utils._rebuild_parameter",
          "torch._tensor._rebuild_from_type_v2");

  private static final Pattern ALLOWED_TORCH =
      Pattern.compile("torch\\.(\\w+Storage|float\\w+|bfloat16|half|double|u?int\\d+|bool)");

  /** As deep as CPython itself pickles. */
  private static final int MOST_NESTED = 1000;

  private final String file;
  private final IdentityHashMap<PyObject, PyObject> done = new IdentityHashMap<>();
  private int depth;

  private PlainObjects(String file) {
    this.file = file;
  }

  /**
   * Edits {@code rewritten} in place where it can, and numbers its storages anew.
   *
   * @param file for messages
   * @throws RefusedException if an object has no plain form
   */
  static Rewritten in(String file, Rewritten rewritten) {
    PyObject root = new PlainObjects(file).plain(rewritten.root());
    Map<String, Rewritten.Storage> byKey = new HashMap<>();
    rewritten.storages().forEach(storage -> byKey.put(storage.key(), storage));
    List<Rewritten.Storage> storages = new ArrayList<>();
    StorageKeys.renumber(file, root)
        .forEach(
            (key, before) -> {
              Rewritten.Storage storage = byKey.get(before.key());
              storages.add(new Rewritten.Storage(key, storage.bytes(), storage.content()));
            });
    return new Rewritten(root, storages);
  }

  private PyObject plain(PyObject node) {
    PyObject before = done.get(node);
    if (before != null) {
      return before;
    }
    if (++depth > MOST_NESTED) {
      throw new RefusedException(file, "the pickle is nested more than " + MOST_NESTED + " deep");
    }
    PyObject after;
    if (node instanceof PyInstance instance) {
      after = instance(instance);
    } else {
      done.put(node, node);
      after = container(node);
    }
    depth--;
    done.put(node, after);
    return after;
  }

  private PyObject container(PyObject node) {
    if (node instanceof PyDict dict) {
      entries(dict.entries());
    } else if (node instanceof PyList list) {
      list.items().replaceAll(this::plain);
    } else if (node instanceof PySet set) {
      set.items().replaceAll(this::plain);
    } else if (node instanceof PyTuple tuple) {
      List<PyObject> items = tuple.items().stream().map(this::plain).toList();
      for (int i = 0; i < items.size(); i++) {
        if (!same(items.get(i), tuple.get(i))) {
          return new PyTuple(items);
        }
      }
    } else if (node instanceof PyGlobal global) {
      requireAllowed(global);
    }
    return node;
  }

  @SuppressWarnings("ReferenceEquality") // identity is what a pickle keeps
  private static boolean same(PyObject a, PyObject b) {
    return a == b;
  }

  private void entries(PyEntries entries) {
    entries
        .list()
        .replaceAll(entry -> new PyEntries.Entry(plain(entry.key()), plain(entry.value())));
  }

  private PyObject instance(PyInstance instance) {
    if (instance.callable() instanceof PyGlobal made && made.module().startsWith("deepspeed.")) {
      if (instance.state() instanceof PyDict attributes
          && instance.listItems().isEmpty()
          && instance.dictItems().size() == 0) {
        return plain(attributes);
      }
      if (instance.state() == null
          && instance.args() instanceof PyTuple args
          && args.size() == 1
          && args.get(0) instanceof PyInt number) {
        return number;
      }
      throw new RefusedException(
          file, "an object of " + made + " has no plain form; leave --sanitize out.");
    }
    Optional<PyInt> stage = ZeroStage.numberOf(instance);
    if (stage.isPresent() && instance.args() instanceof PyTuple args && args.size() == 2) {
      return stage.get();
    }
    done.put(instance, instance);
    plain(instance.callable());
    instance.setArgs(plain(instance.args()));
    instance.listItems().replaceAll(this::plain);
    entries(instance.dictItems());
    if (instance.state() != null) {
      instance.setState(plain(instance.state()));
    }
    return instance;
  }

  private void requireAllowed(PyGlobal global) {
    String name = global.toString();
    if (!ALLOWED.contains(name) && !ALLOWED_TORCH.matcher(name).matches()) {
      throw new RefusedException(
          file,
          "it refers to %s, which torch.load(weights_only=True) refuses and which has no plain form; leave --sanitize out."
              .formatted(name));
    }
  }
}
