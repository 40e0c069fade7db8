package io.github.reshard.testing;

import io.github.reshard.checkpoint.pickle.PyBool;
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
import java.util.function.UnaryOperator;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * The full tensors of a checkpoint, put together as plainly as can be and without the code under
 * test: the partitions of all ranks one after the other, cut at the sizes in the order of {@code
 * param_shapes}, without {@code param_alignment_paddings}; in ZeRO-3 the pieces of each parameter
 * one after the other.
 *
 * @param tensors for {@code MP/PARAM.fp32}, {@code MP/PARAM.exp_avg}, ... the bytes in full shape;
 *     MP is the mp rank
 * @param replicated for {@code MP/GROUP.step} and its kind, the bytes
 * @param weights for {@code MP/PARAM} the module's weight
 */
public record Reassembly(
    Map<String, byte[]> tensors, Map<String, byte[]> replicated, Map<String, Weight> weights) {

  /** A module's weight. */
  @SuppressWarnings("ArrayRecordComponent") // Never compared.
  public record Weight(DType dtype, byte[] bytes) {}

  public static Reassembly of(Path checkpoint, String tag) {
    Reassembly all = new Reassembly(new TreeMap<>(), new TreeMap<>(), new TreeMap<>());
    Path directory = checkpoint.resolve(tag);
    List<String> names = CheckpointComparison.fileNames(directory).stream().toList();
    for (String name : names) {
      if (name.matches("mp_rank_\\d+_model_states.pt")) {
        String mp = name.substring("mp_rank_".length(), name.indexOf("_model_states"));
        all.addMpRank(mp, TorchContent.read(directory.resolve(name)), optimizers(directory, mp));
        all.addLayers(mp, directory, names);
        all.addExperts(mp, directory, names);
      } else if (name.matches("zero_pp_rank_0_mp_rank_\\d+_model_states.pt")) {
        String mp =
            name.substring("zero_pp_rank_0_mp_rank_".length(), name.indexOf("_model_states"));
        ReassembledPieces.add(
            all,
            mp,
            files(directory, "zero_pp_rank_%d_mp_rank_%s_model_states.pt", mp),
            optimizers(directory, mp));
      }
    }
    return all;
  }

  private static List<TorchContent> optimizers(Path directory, String mp) {
    List<TorchContent> ranks = new ArrayList<>();
    for (String prefix : List.of("", "bf16_")) {
      ranks.addAll(files(directory, prefix + "zero_pp_rank_%d_mp_rank_%s_optim_states.pt", mp));
    }
    return ranks;
  }

  private static List<TorchContent> files(Path directory, String pattern, String mp) {
    List<TorchContent> ranks = new ArrayList<>();
    for (int rank = 0; ; rank++) {
      Path file = directory.resolve(pattern.formatted(rank, mp));
      if (!Files.exists(file)) {
        return ranks;
      }
      ranks.add(TorchContent.read(file));
    }
  }

  private void addMpRank(String mp, TorchContent model, List<TorchContent> ranks) {
    PyList groups = (PyList) model.at("param_shapes");
    for (int g = 0; g < groups.size(); g++) {
      String name = expertGroup(ranks.get(0), g);
      if (name == null) {
        addGroup(mp, groups.get(g), g, ranks, n -> n);
        continue;
      }
      int expertRanks = Integer.parseInt(name.substring("ep_size_".length()));
      int sharers = ranks.size() / expertRanks;
      boolean dataFirst =
          ranks.get(0).at("ds_config", "use_data_before_expert_parallelism") == PyBool.TRUE;
      int localExperts = localExperts(groups);
      for (int e = 0; e < expertRanks; e++) {
        List<TorchContent> having = new ArrayList<>();
        for (int rank = 0; rank < ranks.size(); rank++) {
          if ((dataFirst ? rank / sharers : rank % expertRanks) == e) {
            having.add(ranks.get(rank));
          }
        }
        int before = e * localExperts;
        addGroup(
            mp,
            groups.get(g),
            g,
            having,
            n ->
                EXPERT
                    .matcher(n)
                    .replaceAll(
                        m -> "deepspeed_experts." + (before + Integer.parseInt(m.group(1)))));
      }
    }
    if (TorchContent.entries(model.at("module")) != null) {
      addWeights(mp, "", model, model.at("module"));
    }
  }

  private static final Pattern EXPERT = Pattern.compile("deepspeed_experts\\.(\\d+)");

  /** The name of a group of experts, or null. */
  private static String expertGroup(TorchContent optimizer, int group) {
    if (optimizer.at("optimizer_state_dict", "base_optimizer_state") instanceof PyList) {
      return null;
    }
    Object[] at = inStateDict("base_optimizer_state", "param_groups", group, "moe");
    return optimizer.at(at) == PyBool.TRUE
        ? TorchContent.text(
            optimizer.at(inStateDict("base_optimizer_state", "param_groups", group, "name")))
        : null;
  }

  /** The experts of a rank, whose parameters may be in several groups. */
  private static int localExperts(PyList groups) {
    int most = 0;
    for (PyObject shapes : groups.items()) {
      for (PyEntries.Entry parameter : TorchContent.entries(shapes)) {
        Matcher m = EXPERT.matcher(TorchContent.text(parameter.key()));
        if (m.find()) {
          most = Math.max(most, Integer.parseInt(m.group(1)) + 1);
        }
      }
    }
    return most;
  }

  private void addGroup(
      String mp, PyObject shapes, int g, List<TorchContent> ranks, UnaryOperator<String> naming) {
    addState(mp, shapes, g, naming, "fp32", ranks, "single_partition_of_fp32_groups", g);
    TorchContent first = ranks.get(0);
    Object[] path =
        first.at("optimizer_state_dict", "base_optimizer_state") instanceof PyList
            ? new Object[] {"base_optimizer_state", g}
            : new Object[] {"base_optimizer_state", "state", g};
    PyEntries state = TorchContent.entries(first.at(inStateDict(path)));
    if (state == null) {
      return;
    }
    for (PyEntries.Entry entry : state) {
      String key = TorchContent.text(entry.key());
      Object[] full = Arrays.copyOf(path, path.length + 1);
      full[path.length] = key;
      Optional<TensorNode> tensor = TensorNode.of(entry.value());
      if (key.equals("momentum_buffer") && usesMuon(first, g)) {
        addMomentum(mp, g, ranks, naming, full);
      } else if (tensor.isPresent() && tensor.get().shape().length > 0) {
        addState(mp, shapes, g, naming, key, ranks, full);
      } else if (tensor.isPresent()) {
        replicated.put(mp + "/" + g + "." + key, first.tensor(tensor.get()));
      } else if (TorchContent.entries(entry.value()) != null) {
        addNested(mp, shapes, g, naming, key, TorchContent.entries(entry.value()), ranks, full);
      }
    }
  }

  /** bitsandbytes keeps its tensors one level deeper. */
  private void addNested(
      String mp,
      PyObject shapes,
      int g,
      UnaryOperator<String> naming,
      String outer,
      PyEntries inner,
      List<TorchContent> ranks,
      Object[] path) {
    for (PyEntries.Entry entry : inner) {
      String key = TorchContent.text(entry.key());
      addState(mp, shapes, g, naming, outer + "." + key, ranks, and(path, key));
    }
  }

  private static boolean usesMuon(TorchContent optimizer, int group) {
    return optimizer.at(inStateDict("base_optimizer_state", "param_groups", group, "use_muon"))
        == PyBool.TRUE;
  }

  /** Every rank holds all of each parameter that {@code param_slice_mappings} names for it. */
  private void addMomentum(
      String mp, int g, List<TorchContent> ranks, UnaryOperator<String> naming, Object[] path) {
    for (TorchContent rank : ranks) {
      int at = 0;
      PyEntries slices = TorchContent.entries(rank.at(inStateDict("param_slice_mappings", g)));
      if (slices.size() == 0) {
        if (rank.at(inStateDict("base_optimizer_state", "state", g)) != null) {
          throw new IllegalStateException("momentum on a rank that holds no parameter");
        }
        continue;
      }
      TensorNode tensor = TensorNode.of(rank.at(inStateDict(path))).orElseThrow();
      byte[] momentum = rank.tensor(tensor);
      for (PyEntries.Entry slice : slices) {
        String name = mp + "/" + naming.apply(TorchContent.text(slice.key()));
        byte[] masters = tensors.get(name + ".fp32");
        int bytes = masters.length / 4 * tensor.dtype().bytes();
        byte[] mine = Arrays.copyOfRange(momentum, at, at + bytes);
        byte[] other = tensors.put(name + ".momentum_buffer", mine);
        if (other != null && !Arrays.equals(mine, other)) {
          throw new IllegalStateException("ranks disagree on the momentum of " + name);
        }
        at += bytes;
      }
      if (at != momentum.length) {
        throw new IllegalStateException(
            "%d bytes of momentum where the parameters have %d".formatted(momentum.length, at));
      }
    }
  }

  static Object[] and(Object[] path, Object step) {
    Object[] longer = Arrays.copyOf(path, path.length + 1);
    longer[path.length] = step;
    return longer;
  }

  static Object[] inStateDict(Object... path) {
    return Stream.concat(Stream.of("optimizer_state_dict"), Stream.of(path)).toArray();
  }

  private void addState(
      String mp,
      PyObject shapes,
      int g,
      UnaryOperator<String> naming,
      String state,
      List<TorchContent> ranks,
      Object... path) {
    PyList between =
        ranks.get(0).at(inStateDict("param_alignment_paddings")) instanceof PyList all
            ? (PyList) all.get(g)
            : new PyList();
    ByteArrayOutputStream flat = new ByteArrayOutputStream();
    int width = 0;
    for (TorchContent rank : ranks) {
      TensorNode partition = TensorNode.of(rank.at(inStateDict(path))).orElseThrow();
      flat.writeBytes(rank.tensor(partition));
      width = partition.dtype().bytes();
    }
    int at = 0;
    int place = 0;
    for (PyEntries.Entry parameter : TorchContent.entries(shapes)) {
      int bytes = width * numel(parameter.value());
      tensors.put(
          mp + "/" + naming.apply(TorchContent.text(parameter.key())) + "." + state,
          Arrays.copyOfRange(flat.toByteArray(), at, at + bytes));
      at += bytes;
      if (place < between.size()) {
        at += width * ((PyInt) between.get(place++)).value().intValueExact();
      }
    }
    if (at > flat.size()) {
      throw new IllegalStateException(
          "%s of mp rank %s has %d bytes, expected %d".formatted(state, mp, flat.size(), at));
    }
  }

  public static int numel(PyObject size) {
    // DeepSpeed makes plain tuples of the sizes where there are experts.
    PyTuple shape =
        size instanceof PyTuple plain
            ? plain
            : (PyTuple) ((PyTuple) ((PyInstance) size).args()).get(0);
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

  /** The experts, under their global names. */
  private void addExperts(String mp, Path directory, List<String> names) {
    for (String name : names) {
      if (name.matches("layer_\\d+_expert_\\d+_mp_rank_" + mp + "_model_states.pt")) {
        TorchContent file = TorchContent.read(directory.resolve(name));
        addWeights(mp, "", file, file.root());
      }
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
