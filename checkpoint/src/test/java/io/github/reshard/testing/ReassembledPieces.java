package io.github.reshard.testing;

import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.ByteArrayOutputStream;
import java.util.Arrays;
import java.util.List;

/** The full tensors of ZeRO-3, of which each rank has a piece. */
final class ReassembledPieces {
  private ReassembledPieces() {}

  static void add(
      Reassembly all, String mp, List<TorchContent> models, List<TorchContent> optimizers) {
    TorchContent first = optimizers.get(0);
    PyList shapes = (PyList) models.get(0).at("param_shapes");
    Object[] flat = Reassembly.inStateDict("fp32_flat_groups");
    Object[] inner = Reassembly.inStateDict("optimizer_state_dict", "state");
    PyList groups =
        (PyList) first.at(Reassembly.inStateDict("optimizer_state_dict", "param_groups"));
    for (int g = 0; g < groups.size(); g++) {
      for (PyObject param : ((PyList) TorchContent.entries(groups.get(g)).get("params")).items()) {
        int i = ((PyInt) param).value().intValueExact();
        addPieces(all, mp, shapes.get(i), "fp32", optimizers, Reassembly.and(flat, i));
        PyEntries state = TorchContent.entries(first.at(Reassembly.and(inner, i)));
        if (state == null) {
          continue;
        }
        for (PyEntries.Entry entry : state) {
          String key = TorchContent.text(entry.key());
          TensorNode tensor = TensorNode.of(entry.value()).orElseThrow();
          if (tensor.shape().length > 0) {
            addPieces(
                all,
                mp,
                shapes.get(i),
                key,
                optimizers,
                Reassembly.and(Reassembly.and(inner, i), key));
          } else {
            byte[] value = first.tensor(tensor);
            byte[] other = all.replicated().put(mp + "/" + g + "." + key, value);
            if (other != null && !Arrays.equals(value, other)) {
              throw new IllegalStateException("sub-groups of group " + g + " disagree on " + key);
            }
          }
        }
      }
    }
    PyEntries frozen = TorchContent.entries(models.get(0).at("frozen_param_shapes"));
    if (frozen != null) {
      for (PyEntries.Entry parameter : frozen) {
        String name = TorchContent.text(parameter.key());
        addPiece(
            all,
            mp,
            name,
            Reassembly.numel(parameter.value()),
            0,
            "frozen",
            models,
            "frozen_param_fragments",
            name);
      }
    }
  }

  /** Each parameter is cut in pieces of ceil(elements / ranks), which lie one after the other. */
  private static void addPieces(
      Reassembly all,
      String mp,
      PyObject shapes,
      String state,
      List<TorchContent> ranks,
      Object... path) {
    int at = 0;
    for (PyEntries.Entry parameter : TorchContent.entries(shapes)) {
      int elements = Reassembly.numel(parameter.value());
      addPiece(all, mp, TorchContent.text(parameter.key()), elements, at, state, ranks, path);
      at += (elements + ranks.size() - 1) / ranks.size();
    }
    long length = TensorNode.of(ranks.get(0).at(path)).orElseThrow().numel();
    if (at != length) {
      throw new IllegalStateException(
          "sub-group of %d elements where its parameters have %d".formatted(length, at));
    }
  }

  private static void addPiece(
      Reassembly all,
      String mp,
      String name,
      int elements,
      int at,
      String state,
      List<TorchContent> ranks,
      Object... path) {
    int piece = (elements + ranks.size() - 1) / ranks.size();
    ByteArrayOutputStream pieces = new ByteArrayOutputStream();
    int width = 0;
    for (TorchContent rank : ranks) {
      TensorNode tensor = TensorNode.of(rank.at(path)).orElseThrow();
      width = tensor.dtype().bytes();
      pieces.writeBytes(Arrays.copyOfRange(rank.tensor(tensor), at * width, (at + piece) * width));
    }
    all.tensors()
        .put(mp + "/" + name + "." + state, Arrays.copyOf(pieces.toByteArray(), elements * width));
  }
}
