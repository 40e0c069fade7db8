package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * What of {@code universal_checkpoint_info} is of one number of tensor-parallel ranks, made for
 * another: the widths of fused matrices, the affine map and the padded vocabulary. Patterns are of
 * any number. It is kept where one rank is left, too: without it nobody could go back.
 */
public final class InfoRewrite {
  private static final String PADDED = "padded_vocab_size";

  private InfoRewrite() {}

  /**
   * Rewrites the dict in place.
   *
   * @param recuts each parameter by its name
   */
  public static void rewrite(PickledValue info, Map<String, Recut> recuts) {
    info.findPresent(TensorRules.FUSED_WIDTHS).ifPresent(widths -> widths(widths, recuts));
    info.findPresent(TensorRules.AFFINE)
        .flatMap(map -> map.findPresent("params"))
        .ifPresent(params -> affine(params, recuts));
    NamePatterns vocabulary = NamePatterns.of(info, TensorRules.VOCABULARY);
    if (info.find(PADDED).isPresent()) {
      recuts.forEach(
          (name, recut) -> {
            if (vocabulary.match(name).isPresent()) {
              long rows = recut.target().stream().mapToLong(local -> local.shape().get(0)).sum();
              info.entries().replace(PADDED, PyInt.of(rows));
            }
          });
    }
  }

  private static Optional<Recut> matching(PickledValue at, String pattern, Map<String, Recut> of) {
    NamePatterns.NamePattern compiled = NamePatterns.compile(at, pattern);
    List<String> names = of.keySet().stream().filter(compiled::matches).toList();
    if (names.stream().map(name -> of.get(name).cut()).distinct().count() > 1) {
      throw at.refused(
          "the pattern is of %s, which are cut in different ways at the target. Give each a pattern of its own."
              .formatted(names));
    }
    return names.stream().findFirst().map(of::get);
  }

  private static void widths(PickledValue widths, Map<String, Recut> recuts) {
    for (PickledValue.Entry entry : widths.children()) {
      matching(entry.value(), entry.key(), recuts)
          .flatMap(Recut::cut)
          .ifPresent(
              cut ->
                  widths
                      .entries()
                      .replace(
                          entry.key(),
                          PyList.of(cut.widths().stream().map(InfoRewrite::numbers).toList())));
    }
  }

  private static PyList numbers(List<Long> values) {
    return PyList.of(values.stream().map(PyInt::of).toList());
  }

  /** {@code ParamAffineMap.to_dict} of the parameters that are there. */
  private static void affine(PickledValue params, Map<String, Recut> recuts) {
    Names names = new Names();
    params.children().forEach(entry -> names.add(entry.value()));
    Iterator<PyEntries.Entry> entries = params.entries().list().iterator();
    List<PyEntries.Entry> kept = new ArrayList<>();
    for (PickledValue.Entry entry : params.children()) {
      PyObject key = entries.next().key();
      matching(entry.value(), entry.key(), recuts)
          .ifPresent(recut -> kept.add(new PyEntries.Entry(key, map(recut, names))));
    }
    params.entries().list().clear();
    params.entries().list().addAll(kept);
  }

  /** The keys as the objects that the file has: Python has one of each. */
  private static final class Names {
    private final Map<String, PyStr> known = new HashMap<>();

    void add(PickledValue value) {
      if (value.isDict()) {
        for (PyEntries.Entry entry : value.entries()) {
          if (entry.key() instanceof PyStr name) {
            known.putIfAbsent(name.value(), name);
          }
        }
        value.children().forEach(entry -> add(entry.value()));
      } else if (value.isList()) {
        value.items().forEach(this::add);
      }
    }

    PyStr of(String name) {
      return known.computeIfAbsent(name, PyStr::new);
    }
  }

  private static PyDict dict(Names names, Object... keysAndValues) {
    PyDict dict = new PyDict();
    for (int i = 0; i < keysAndValues.length; i += 2) {
      dict.entries().add(names.of((String) keysAndValues[i]), (PyObject) keysAndValues[i + 1]);
    }
    return dict;
  }

  private static PyDict map(Recut recut, Names names) {
    PyDict ranks = new PyDict();
    boolean whole = recut.sharing() != Recut.Sharing.CUT;
    for (int rank = 0; rank < recut.target().size(); rank++) {
      LocalTensor local = recut.target().get(rank);
      int own = rank;
      List<LocalTensor.Block> pieces =
          recut.cut().map(cut -> cut.pieces(recut.shape(), own)).orElse(local.blocks());
      PyList list = new PyList();
      for (LocalTensor.Block piece : pieces) {
        List<Long> locations = new ArrayList<>();
        for (long other = 0; other < recut.target().size(); other++) {
          if (whole || other == rank) {
            locations.add(other);
          }
        }
        list.items()
            .add(
                dict(
                    names,
                    "shape",
                    numbers(piece.full().sizes()),
                    "source",
                    view(recut.shape(), piece.full().offsets()),
                    "dest",
                    view(local.shape(), piece.at()),
                    "locations",
                    numbers(locations)));
      }
      ranks
          .entries()
          .add(PyInt.of(rank), dict(names, "shard_shape", numbers(local.shape()), "pieces", list));
    }
    return dict(names, "logical_shape", numbers(recut.shape()), "ranks", ranks);
  }

  /** Offset and strides of a box of a tensor, in elements. */
  private static PyList view(List<Long> around, List<Long> offsets) {
    long offset = 0;
    List<Long> strides = new ArrayList<>();
    for (int d = 0; d < around.size(); d++) {
      long stride = Box.elements(around.subList(d + 1, around.size()));
      strides.add(stride);
      offset += offsets.get(d) * stride;
    }
    return PyList.of(List.of(PyInt.of(offset), numbers(strides)));
  }
}
