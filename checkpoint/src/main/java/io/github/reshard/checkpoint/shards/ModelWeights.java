package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.copy.WeightCast;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.NamedFile;
import io.github.reshard.checkpoint.format.Addresses;
import io.github.reshard.checkpoint.safetensors.SafetensorsFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * The weights of a model that the user named: a {@code state_dict()} saved by {@code torch.save} or
 * as safetensors, in one file or in parts with an index (Hugging Face: {@code
 * pytorch_model.bin.index.json}, {@code model.safetensors.index.json}).
 *
 * @param path what the user named
 * @param weights by name, in the order of the file
 * @param sources the index in the plan's sources of each file, by path
 */
record ModelWeights(String path, Map<String, Weight> weights, Map<String, Integer> sources) {
  private static final long MOST_INDEX_BYTES = 256L << 20;

  /** Where people put the state dict in a file that holds more than it. */
  private static final List<String> WRAPPERS =
      List.of("module", "model", "state_dict", "model_state_dict");

  /** What {@code torch.nn.DataParallel} and DeepSpeed's engine put in front of every name. */
  private static final String ENGINE_PREFIX = "module.";

  /**
   * A tensor of the model.
   *
   * @param where it is, for messages
   * @param dtype the type of an element
   * @param shape elements per dimension
   * @param address where its bytes begin
   * @param contiguous whether they follow one another in C order
   */
  record Weight(String where, DType dtype, List<Long> shape, Address address, boolean contiguous) {
    long elements() {
      return shape.stream().reduce(1L, Math::multiplyExact);
    }
  }

  /**
   * Reads the headers.
   *
   * @param directory where the shards are
   * @param path a file in {@code directory}, else a path
   * @throws RefusedException if there is no such file, or it holds no state dict
   */
  static ModelWeights read(DeepSpeedReading reading, String directory, String path)
      throws IOException {
    FileStat stat = NamedFile.find(reading.store(), directory, path, "--model");
    ModelWeights model =
        new ModelWeights(stat.path(), new LinkedHashMap<>(), new LinkedHashMap<>());
    String parent = NamedFile.parent(stat.path());
    if (stat.name().toLowerCase(Locale.ROOT).endsWith(".json")) {
      Set<String> parts = new LinkedHashSet<>(partsOf(reading, stat));
      for (String part : parts) {
        model.addFile(reading, NamedFile.find(reading.store(), parent, part, stat.name()));
      }
    } else {
      model.addFile(reading, stat);
    }
    if (model.weights.isEmpty()) {
      throw new RefusedException(
          stat.path(), "holds no tensors by name. --model is a state dict of the model.");
    }
    return model;
  }

  private static List<String> partsOf(DeepSpeedReading reading, FileStat stat) throws IOException {
    Object root = NamedFile.json(reading.store(), stat, MOST_INDEX_BYTES);
    if (root instanceof Map<?, ?> index && index.get("weight_map") instanceof Map<?, ?> names) {
      return names.values().stream().map(String::valueOf).toList();
    }
    throw new RefusedException(
        stat.path(), "expected an index with a \"weight_map\" from names to files.");
  }

  private void addFile(DeepSpeedReading reading, FileStat stat) throws IOException {
    if (isSafetensors(reading, stat)) {
      addSafetensors(reading, stat);
    } else {
      addTorch(reading, stat);
    }
  }

  /**
   * A torch file is a zip and begins with PK; the 8 bytes of a safetensors file are followed by {.
   */
  private static boolean isSafetensors(DeepSpeedReading reading, FileStat stat) throws IOException {
    if (stat.name().toLowerCase(Locale.ROOT).endsWith(".safetensors")) {
      return true;
    }
    if (stat.bytes() < 9) {
      return false;
    }
    ByteBuffer begin = ByteBuffer.allocate(9);
    try (RangedFile file = reading.store().open(stat)) {
      file.readFully(0, begin);
    }
    return begin.get(8) == '{' && begin.get(0) != 'P';
  }

  private void addSafetensors(DeepSpeedReading reading, FileStat stat) throws IOException {
    SafetensorsFile safetensors;
    try (RangedFile file = reading.store().open(stat)) {
      safetensors = SafetensorsFile.read(file);
    }
    int source = reading.addSource(stat);
    sources.put(stat.path(), source);
    safetensors
        .tensors()
        .forEach(
            (name, tensor) ->
                weights.put(
                    name,
                    new Weight(
                        stat.path() + ", " + name,
                        tensor.dtype(),
                        tensor.shape(),
                        new Address(source, Addresses.NO_ENTRY, tensor.offset()),
                        true)));
  }

  private void addTorch(DeepSpeedReading reading, FileStat stat) throws IOException {
    TorchFile file = reading.read(stat);
    int source = reading.addSource(stat, file);
    sources.put(stat.path(), source);
    PickledValue root = PickledValue.root(file.path(), file.parse().root());
    PickledValue dict = root;
    for (String wrapper : WRAPPERS) {
      Optional<PickledValue> inner = root.findPresent(wrapper).filter(PickledValue::isDict);
      if (inner.isPresent()) {
        dict = inner.get();
        break;
      }
    }
    for (PickledValue.Entry entry : dict.children()) {
      Optional<TensorNode> tensor = entry.value().asTensor();
      if (tensor.isPresent()) {
        String where = entry.value().where();
        weights.put(
            entry.key(),
            new Weight(
                where,
                tensor.get().dtype(),
                Arrays.stream(tensor.get().shape()).boxed().toList(),
                reading.address(source, file, where, tensor.get()),
                tensor.get().isContiguous()));
      }
    }
  }

  /** The weight that is called {@code name}, or so but for the prefix {@code module.}. */
  Optional<Weight> find(String name) {
    Weight weight = weights.get(name);
    if (weight == null) {
      weight = weights.get(ENGINE_PREFIX + name);
    }
    if (weight == null && name.startsWith(ENGINE_PREFIX)) {
      weight = weights.get(name.substring(ENGINE_PREFIX.length()));
    }
    return Optional.ofNullable(weight);
  }

  /**
   * What is to be compared with the masters of {@code parameter}; null if nothing can be.
   *
   * @throws RefusedException if the model has another number of elements under that name
   */
  ModuleWeight compared(String name, Parameter parameter, DType master) {
    Optional<Weight> found = find(name);
    if (found.isEmpty()) {
      return null;
    }
    Weight weight = found.get();
    if (weight.elements() != parameter.elements()) {
      throw new RefusedException(
          weight.where(),
          "has shape %s, that is %d elements; the shards hold %d of it. The model is not the one that was trained."
              .formatted(weight.shape(), weight.elements(), parameter.elements()));
    }
    boolean comparable = weight.contiguous() && WeightCast.supports(master, weight.dtype());
    return comparable ? new ModuleWeight(weight.dtype(), weight.address(), null) : null;
  }
}
