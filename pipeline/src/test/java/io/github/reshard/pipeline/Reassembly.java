package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.ByteArrayOutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.stream.Stream;

/**
 * The full tensors of a ZeRO-1 or 2 checkpoint, put together as plainly as can be and without the
 * code under test: the partitions of all ranks one after the other, cut at the sizes in the order
 * of {@code param_shapes}.
 *
 * @param tensors for {@code MP/PARAM.fp32}, {@code MP/PARAM.exp_avg}, ... the bytes in full shape;
 *     MP is the mp rank
 * @param replicated for {@code MP/GROUP.step} and its kind, the bytes
 * @param weights for {@code MP/PARAM} the module's weight
 */
record Reassembly(
    Map<String, byte[]> tensors, Map<String, byte[]> replicated, Map<String, Weight> weights) {

  /** A module's weight. */
  @SuppressWarnings("ArrayRecordComponent") // Never compared.
  record Weight(DType dtype, byte[] bytes) {}

  static Reassembly of(Path checkpoint, String tag) {
    Reassembly all = new Reassembly(new TreeMap<>(), new TreeMap<>(), new TreeMap<>());
    Path directory = checkpoint.resolve(tag);
    List<String> names = CheckpointComparison.fileNames(directory).stream().toList();
    for (String name : names) {
      if (name.matches("mp_rank_\\d+_model_states.pt")) {
        String mp = name.substring("mp_rank_".length(), name.indexOf("_model_states"));
        all.addMpRank(mp, TorchContent.read(directory.resolve(name)), optimizers(directory, mp));
        all.addLayers(mp, directory, names);
      }
    }
    return all;
  }

  private static List<TorchContent> optimizers(Path directory, String mp) {
    List<TorchContent> ranks = new ArrayList<>();
    for (String prefix : List.of("", "bf16_")) {
      for (int rank = 0; ; rank++) {
        Path file =
            directory.resolve(
                "%szero_pp_rank_%d_mp_rank_%s_optim_states.pt".formatted(prefix, rank, mp));
        if (!Files.exists(file)) {
          break;
        }
        ranks.add(TorchContent.read(file));
      }
    }
    return ranks;
  }

  private void addMpRank(String mp, TorchContent model, List<TorchContent> ranks) {
    PyList groups = (PyList) model.at("param_shapes");
    for (int g = 0; g < groups.size(); g++) {
      addState(mp, groups.get(g), "fp32", ranks, "single_partition_of_fp32_groups", g);
      TorchContent first = ranks.get(0);
      Object[] path =
          first.at("optimizer_state_dict", "base_optimizer_state") instanceof PyList
              ? new Object[] {"base_optimizer_state", g}
              : new Object[] {"base_optimizer_state", "state", g};
      PyEntries state = TorchContent.entries(first.at(inStateDict(path)));
      if (state == null) {
        continue;
      }
      for (PyEntries.Entry entry : state) {
        String key = TorchContent.text(entry.key());
        Object[] full = Arrays.copyOf(path, path.length + 1);
        full[path.length] = key;
        Optional<TensorNode> tensor = TensorNode.of(entry.value());
        if (tensor.isPresent() && tensor.get().shape().length > 0) {
          addState(mp, groups.get(g), key, ranks, full);
        } else if (tensor.isPresent()) {
          replicated.put(mp + "/" + g + "." + key, first.tensor(tensor.get()));
        }
      }
    }
    if (TorchContent.entries(model.at("module")) != null) {
      addWeights(mp, "", model, model.at("module"));
    }
  }

  private static Object[] inStateDict(Object... path) {
    return Stream.concat(Stream.of("optimizer_state_dict"), Stream.of(path)).toArray();
  }

  private void addState(
      String mp, PyObject shapes, String state, List<TorchContent> ranks, Object... path) {
    ByteArrayOutputStream flat = new ByteArrayOutputStream();
    int width = 0;
    for (TorchContent rank : ranks) {
      TensorNode partition = TensorNode.of(rank.at(inStateDict(path))).orElseThrow();
      flat.writeBytes(rank.tensor(partition));
      width = partition.dtype().bytes();
    }
    int at = 0;
    for (PyEntries.Entry parameter : TorchContent.entries(shapes)) {
      int bytes = width * numel(parameter.value());
      tensors.put(
          mp + "/" + TorchContent.text(parameter.key()) + "." + state,
          Arrays.copyOfRange(flat.toByteArray(), at, at + bytes));
      at += bytes;
    }
    if (at > flat.size()) {
      throw new IllegalStateException(
          "%s of mp rank %s has %d bytes, expected %d".formatted(state, mp, flat.size(), at));
    }
  }

  private static int numel(PyObject size) {
    PyTuple shape = (PyTuple) ((PyTuple) ((PyInstance) size).args()).get(0);
    return shape.items().stream()
        .mapToInt(d -> ((PyInt) d).value().intValueExact())
        .reduce(1, Math::multiplyExact);
  }

  private void addWeights(String mp, String prefix, TorchContent file, PyObject module) {
    for (PyEntries.Entry entry : TorchContent.entries(module)) {
      TensorNode tensor = TensorNode.of(entry.value()).orElseThrow();
      weights.put(
          mp + "/" + prefix + TorchContent.text(entry.key()),
          new Weight(tensor.dtype(), file.tensor(tensor)));
    }
  }

  /** The layers of a pipeline run; a stage has only some of them, the names tell which. */
  private void addLayers(String mp, Path directory, List<String> names) {
    for (String name : names) {
      if (name.matches("layer_\\d+-model_states.pt")) {
        TorchContent file = TorchContent.read(directory.resolve(name));
        int layer = Integer.parseInt(name.substring("layer_".length(), name.indexOf('-')));
        addWeights(mp, layer + ".", file, file.root());
      }
    }
  }
}
