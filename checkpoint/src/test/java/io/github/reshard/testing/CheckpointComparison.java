package io.github.reshard.testing;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * Whether two checkpoints are the same: the same files, and in each torch file the same structure,
 * values, sharing of storages and storage bytes, padding included. Only the numbers of the storages
 * and {@code .data/serialization_id} may differ, and what {@link #withSource} allows.
 */
public final class CheckpointComparison {
  private static final String SAMPLES = "global_samples";

  private final Path expected;
  private final Path source;
  private final boolean onlyStructure;
  private final boolean onlySizes;

  private CheckpointComparison(
      Path expected, Path source, boolean onlyStructure, boolean onlySizes) {
    this.expected = expected;
    this.source = source;
    this.onlyStructure = onlyStructure;
    this.onlySizes = onlySizes;
  }

  public static CheckpointComparison with(Path expected) {
    return new CheckpointComparison(expected, null, false, false);
  }

  /** Whatever the elements of tensors are: for two runs that did the same at different stages. */
  public static CheckpointComparison ofStructure(Path expected) {
    return new CheckpointComparison(expected, null, true, false);
  }

  /**
   * {@code reference} came about through DeepSpeed's Universal Checkpoint. Where that leaves traces
   * of its own (testdata/corpus/README.md) the source says what is right: the order of the keys of
   * {@code state[g]}, two values of {@code ds_config}, frozen parameters and buffers, and in ZeRO-3
   * the hyper-parameters of groups and the sharing of {@code step}.
   */
  public static CheckpointComparison withSource(Path reference, Path source) {
    return new CheckpointComparison(reference, source, false, false);
  }

  /**
   * {@code reference} is of another run, which had batches of its own: of {@code source} are the
   * samples that were seen and two values of {@code ds_config}.
   */
  public static CheckpointComparison withSizesOf(Path source, Path reference) {
    return new CheckpointComparison(reference, source, false, true);
  }

  /** The first difference, with the way to it. */
  public Optional<String> firstDifference(Path actual) {
    Set<String> names = fileNames(expected);
    if (!names.equals(fileNames(actual))) {
      return Optional.of("files: %s vs %s".formatted(names, fileNames(actual)));
    }
    for (String name : names) {
      Optional<String> difference =
          name.endsWith(".pt") ? compareTorch(actual, name) : compareBytes(actual, name);
      if (difference.isPresent()) {
        return difference.map(d -> name + ": " + d);
      }
    }
    return Optional.empty();
  }

  /** The files of a checkpoint, but for the manifest, which only Reshard writes. */
  public static Set<String> fileNames(Path root) {
    try (Stream<Path> all = Files.walk(root)) {
      return all.filter(Files::isRegularFile)
          .filter(p -> !p.endsWith(CheckpointFiles.MANIFEST))
          .map(p -> root.relativize(p).toString())
          .collect(Collectors.toCollection(TreeSet::new));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private Optional<String> compareBytes(Path actual, String name) {
    try {
      long at = Files.mismatch(expected.resolve(name), actual.resolve(name));
      return at < 0 ? Optional.empty() : Optional.of("byte " + at + " differs");
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private Optional<String> compareTorch(Path actual, String name) {
    TorchContent want = TorchContent.read(expected.resolve(name));
    TorchContent have = TorchContent.read(actual.resolve(name));
    TorchContent from = source == null || onlySizes ? null : template(name);
    if (!want.file().style().equals(have.file().style())
        || !want.file().archiveName().equals(have.file().archiveName())) {
      return Optional.of("the containers differ in style or archive name");
    }
    if (onlySizes) {
      takeSizes(want, anyOfItsKind(name));
    }
    boolean sharded = isSharded(name);
    Map<String, String> aliases = new HashMap<>();
    if (from != null) {
      takeFromSource(want, from);
      if (sharded) {
        separateSteps(want, aliases);
      }
    }
    Map<String, BitSet> padding = sharded ? ShardedPieces.padding(actual, name, have) : Map.of();
    Map<String, String> keys = new HashMap<>();
    Set<String> taken = new HashSet<>();
    Optional<String> difference =
        PyEquality.firstDifference(
            want.root(), have.root(), (a, b) -> sameStorage(a, b, keys, taken));
    if (difference.isPresent()) {
      return difference;
    }
    int separated = aliases.size() - Set.copyOf(aliases.values()).size();
    if (want.file().entries().size() + separated != have.file().entries().size()) {
      return Optional.of("another number of zip entries");
    }
    if (onlyStructure) {
      return Optional.empty();
    }
    Set<String> universalLoses = from == null ? Set.of() : frozenAndBuffers(from);
    for (Map.Entry<String, String> pair : keys.entrySet()) {
      String key = aliases.getOrDefault(pair.getKey(), pair.getKey());
      byte[] right = bytesOf(want, from, key, universalLoses);
      String fragment = fragmentOf(want, key);
      if (from != null && sharded && fragment != null) {
        right = fragment(name, want, key, fragment);
      }
      byte[] found = have.storage(pair.getValue());
      byte[] zeros = right;
      padding.getOrDefault(pair.getValue(), new BitSet()).stream().forEach(b -> zeros[b] = 0);
      int at = Arrays.mismatch(right, found);
      if (at >= 0) {
        return Optional.of("byte %d of the storage of %s".formatted(at, want.users(pair.getKey())));
      }
    }
    return Optional.empty();
  }

  private boolean isSharded(String name) {
    return ShardedPieces.has(name)
        && Files.exists(
            expected.resolve(
                name.replaceFirst("[^/]*$", "zero_pp_rank_0_mp_rank_00_model_states.pt")));
  }

  /**
   * Universal Checkpoint makes all sub-groups share one {@code step}; a run that never stopped has
   * one each.
   */
  private static void separateSteps(TorchContent reference, Map<String, String> aliases) {
    PyEntries states =
        TorchContent.entries(reference.at("optimizer_state_dict", "optimizer_state_dict", "state"));
    if (states == null) {
      return;
    }
    for (PyEntries.Entry subGroup : states) {
      PyEntries state = TorchContent.entries(subGroup.value());
      for (PyEntries.Entry value : List.copyOf(state.list())) {
        TensorNode tensor = TensorNode.of(value.value()).orElseThrow();
        if (tensor.shape().length == 0) {
          String key = TorchContent.text(value.key()) + " of " + TorchContent.text(subGroup.key());
          aliases.put(key, tensor.storageKey());
          List<PyObject> arguments = new ArrayList<>(((PyTuple) tensor.node().args()).items());
          arguments.set(0, tensor.storage().with(new PyStr(key), tensor.storage().elements()));
          arguments.set(
              5, PyInstance.reduce(new PyGlobal("collections", "OrderedDict"), PyTuple.of()));
          state.replace(
              TorchContent.text(value.key()),
              PyInstance.reduce(tensor.node().callable(), new PyTuple(arguments)));
        }
      }
    }
  }

  private static String fragmentOf(TorchContent file, String key) {
    return file.tensors().entrySet().stream()
        .filter(e -> e.getValue().storageKey().equals(key))
        .map(Map.Entry::getKey)
        .filter(path -> path.startsWith(FRAGMENTS))
        .map(path -> path.substring(FRAGMENTS.length()))
        .findFirst()
        .orElse(null);
  }

  private static final String FRAGMENTS = "frozen_param_fragments.";

  /** The piece of a frozen parameter, cut from what the source's pieces make together. */
  private byte[] fragment(String name, TorchContent file, String key, String parameter) {
    String tag = name.substring(0, name.indexOf('/'));
    byte[] full = Reassembly.of(source, tag).tensors().get("00/" + parameter + ".frozen");
    int length = file.storage(key).length;
    int from = Math.min(full.length, ShardedPieces.rank(name) * length);
    return Arrays.copyOf(
        Arrays.copyOfRange(full, from, Math.min(full.length, from + length)), length);
  }

  /** A model file or an optimizer file of the source, whatever its stage. */
  private TorchContent anyOfItsKind(String name) {
    String kind = name.substring(name.lastIndexOf('_', name.lastIndexOf('_') - 1));
    return fileNames(source).stream()
        .filter(file -> file.endsWith(kind))
        .map(file -> TorchContent.read(source.resolve(file)))
        .findFirst()
        .orElseThrow();
  }

  /** The source's file of this name, or that of rank 0 for ranks that it does not have. */
  private TorchContent template(String name) {
    Path file = source.resolve(name);
    if (!Files.exists(file)) {
      file = source.resolve(name.replaceFirst("zero_pp_rank_\\d+_", "zero_pp_rank_0_"));
    }
    if (!Files.exists(file)) {
      file =
          source.resolve(
              name.replaceFirst("zero_pp_rank_\\d+_", "zero_pp_rank_0_")
                  .replaceFirst("mp_rank_\\d+", "mp_rank_00"));
    }
    return TorchContent.read(file);
  }

  /** Same but for the key; the keys must correspond one to one. */
  private static boolean sameStorage(
      PyObject a, PyObject b, Map<String, String> keys, Set<String> taken) {
    Optional<StorageNode> x = StorageNode.of(a);
    Optional<StorageNode> y = StorageNode.of(b);
    if (x.isEmpty()
        || y.isEmpty()
        || x.get().elements() != y.get().elements()
        || !x.get().type().is(y.get().type().module(), y.get().type().name())
        || !x.get().location().value().equals(y.get().location().value())) {
      return false;
    }
    String known = keys.get(x.get().key());
    if (known != null) {
      return known.equals(y.get().key());
    }
    keys.put(x.get().key(), y.get().key());
    return taken.add(y.get().key());
  }

  /** Whether the file has a configuration. */
  private static boolean takeSizes(TorchContent reference, TorchContent source) {
    if (reference.at(SAMPLES) != null && source.at(SAMPLES) != null) {
      // Under AutoTP it counts a sample once for each tensor-parallel rank.
      TorchContent.entries(reference.root()).replace(SAMPLES, source.at(SAMPLES));
    }
    PyEntries config = TorchContent.entries(reference.at("ds_config"));
    if (config == null) {
      return false; // a layer of a pipeline
    }
    for (String key : List.of("checkpoint", "train_micro_batch_size_per_gpu")) {
      PyObject right = source.at("ds_config", key);
      if (right != null && config.contains(key)) {
        config.replace(key, right);
      } else if (right == null) {
        config.list().removeIf(e -> TorchContent.text(e.key()).equals(key));
      }
    }
    return true;
  }

  private static void takeFromSource(TorchContent reference, TorchContent source) {
    if (!takeSizes(reference, source)) {
      return;
    }
    if (reference.at("optimizer_state_dict", "optimizer_state_dict") != null) {
      PyEntries states =
          TorchContent.entries(
              reference.at("optimizer_state_dict", "optimizer_state_dict", "state"));
      PyObject order = source.at("optimizer_state_dict", "optimizer_state_dict", "state", 0);
      for (PyEntries.Entry subGroup : states) {
        orderAs(TorchContent.entries(order), TorchContent.entries(subGroup.value()));
      }
      Object[] groups = {"optimizer_state_dict", "optimizer_state_dict", "param_groups"};
      for (int g = 0; g < ((PyList) reference.at(groups)).size(); g++) {
        PyEntries right = TorchContent.entries(((PyList) source.at(groups)).get(g));
        PyEntries group = TorchContent.entries(((PyList) reference.at(groups)).get(g));
        PyObject params = group.get("params");
        group.list().clear();
        right.forEach(e -> group.add(e.key(), e.value()));
        group.replace("params", params);
      }
    }
    if (reference.at("optimizer_state_dict", "base_optimizer_state", "state") != null) {
      int groups =
          ((PyList) reference.at("optimizer_state_dict", "single_partition_of_fp32_groups")).size();
      for (int g = 0; g < groups; g++) {
        orderAs(stateOf(source, g), stateOf(reference, g));
      }
    }
  }

  private static PyEntries stateOf(TorchContent file, int group) {
    return TorchContent.entries(
        file.at("optimizer_state_dict", "base_optimizer_state", "state", group));
  }

  private static void orderAs(PyEntries order, PyEntries entries) {
    List<PyEntries.Entry> sorted = new ArrayList<>();
    for (PyEntries.Entry wanted : order) {
      entries.list().stream()
          .filter(e -> TorchContent.text(e.key()).equals(TorchContent.text(wanted.key())))
          .forEach(sorted::add);
    }
    if (sorted.size() == entries.size()) {
      entries.list().clear();
      entries.list().addAll(sorted);
    }
  }

  /** The paths of what Universal Checkpoint does not restore. */
  private static Set<String> frozenAndBuffers(TorchContent modelFile) {
    Set<String> names = new TreeSet<>();
    if (modelFile.at("frozen_param_shapes") != null
        && TorchContent.entries(modelFile.at("frozen_param_shapes")) != null) {
      TorchContent.entries(modelFile.at("frozen_param_shapes"))
          .forEach(e -> names.add(TorchContent.text(e.key())));
    }
    if (modelFile.at("buffer_names") instanceof PyList buffers) {
      buffers.items().forEach(b -> names.add(TorchContent.text(b)));
    }
    Set<String> paths = new TreeSet<>();
    names.forEach(n -> paths.addAll(List.of("module." + n, "frozen_param_fragments." + n)));
    return paths;
  }

  private static byte[] bytesOf(
      TorchContent reference, TorchContent source, String key, Set<String> universalLoses) {
    List<String> paths =
        reference.tensors().entrySet().stream()
            .filter(e -> e.getValue().storageKey().equals(key))
            .map(Map.Entry::getKey)
            .toList();
    if (!paths.isEmpty() && universalLoses.containsAll(paths)) {
      TensorNode tensor = source.tensors().get(paths.get(0));
      return source.storage(tensor.storageKey());
    }
    return reference.storage(key);
  }
}
