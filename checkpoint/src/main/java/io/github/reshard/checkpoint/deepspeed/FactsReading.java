package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.TreeSet;

/** One reading of {@link CheckpointFacts}. */
final class FactsReading {
  private static final int DEEPEST = 8;

  /** Shared objects can make a small pickle a large tree. */
  private static final int MOST_VALUES = 10_000;

  private final SourceStore store;
  private final CheckpointFiles files;
  private final TensorText text;
  private final List<String> oddities = new ArrayList<>();
  private final Map<DType, Integer> dtypes = new TreeMap<>();

  FactsReading(SourceStore store, CheckpointFiles files, TensorText text) {
    this.store = store;
    this.files = files;
    this.text = text;
  }

  CheckpointFacts run() throws IOException {
    // Shards that were saved one by one say nothing of the module.
    boolean shards = files.tag().isEmpty();
    FileStat modelStat =
        first(
            shards ? new TreeMap<>() : files.models(),
            shards ? files.optimizers() : files.rankModels(),
            "model");
    FileStat optimizerStat = first(new TreeMap<>(), files.optimizers(), "optimizer");
    TorchFile modelFile = file(modelStat);
    TorchFile optimizerFile = file(optimizerStat);
    PickledValue model =
        PickledValue.root(modelFile.path(), shards ? new PyDict() : modelFile.parse().root());
    PickledValue root = PickledValue.root(optimizerFile.path(), optimizerFile.parse().root());
    PickledValue optimizer = shards ? root : root.find("optimizer_state_dict").orElse(root);
    Optional<PickledValue> config = model.findPresent("ds_config");

    SortedMap<String, String> modelValues = new TreeMap<>();
    for (PickledValue.Entry entry : model.children()) {
      if (!ModelStates.OF_DEEPSPEED.contains(entry.key()) && !entry.key().equals("param_groups")) {
        flatten(modelFile, modelStat, entry.key(), entry.value(), 0, modelValues);
      }
    }
    Set<String> trained = names(model.findPresent("param_shapes"));
    Set<String> frozen = names(model.findPresent("frozen_param_shapes"));
    SortedMap<String, String> moduleTensors = new TreeMap<>();
    int buffers = moduleTensors(modelFile, modelStat, model, trained, frozen, moduleTensors);
    SortedMap<String, String> optimizerValues =
        optimizerValues(optimizerFile, optimizerStat, optimizer);

    int stage = stage(optimizer);
    boolean noStage = optimizer.find("zero_stage").isEmpty();
    addOddities(config, optimizer, stage, frozen, modelFile, optimizerFile);
    return new CheckpointFacts(
        stage,
        noStage ? "BF16_Optimizer" : "DeepSpeedZeroOptimizer" + (stage == 3 ? "_Stage3" : ""),
        config
            .flatMap(c -> child(c, "optimizer"))
            .flatMap(o -> child(o, "type"))
            .map(type -> PythonText.of(type.node()))
            .orElse(""),
        dtypes.entrySet().stream()
            .max(Map.Entry.comparingByValue())
            .map(most -> most.getKey().torchName())
            .orElse(""),
        child(optimizer, "ds_version")
            .or(() -> model.findPresent("ds_version"))
            .map(version -> PythonText.of(version.node()))
            .orElse(""),
        shards
            ? files.optimizers().get(0).size()
            : model.findPresent("dp_world_size").map(PickledValue::asInt).orElse(0),
        SavedDegrees.of(files, model),
        buffers,
        frozen.size(),
        modelValues,
        optimizerValues,
        moduleTensors,
        List.copyOf(oddities));
  }

  private FileStat first(
      SortedMap<Integer, FileStat> ofMpRank,
      SortedMap<Integer, SortedMap<Integer, FileStat>> ofRank,
      String kind) {
    if (!ofMpRank.isEmpty()) {
      return ofMpRank.get(ofMpRank.firstKey());
    }
    if (!ofRank.isEmpty()) {
      SortedMap<Integer, FileStat> ranks = ofRank.get(ofRank.firstKey());
      return ranks.get(ranks.firstKey());
    }
    throw new RefusedException(
        files.directory() + "/" + files.tag(),
        "there is no %s file of a ZeRO checkpoint here.".formatted(kind));
  }

  private TorchFile file(FileStat stat) throws IOException {
    try (RangedFile file = store.open(stat)) {
      return TorchFile.read(file);
    }
  }

  private static Optional<PickledValue> child(PickledValue value, String key) {
    return value.isDict() ? value.findPresent(key) : Optional.empty();
  }

  private static int stage(PickledValue optimizer) {
    Optional<PickledValue> stage = child(optimizer, "zero_stage");
    return stage.isEmpty() ? 1 : ZeroStage.of(stage.get());
  }

  private static Set<String> names(Optional<PickledValue> shapes) {
    Set<String> names = new HashSet<>();
    if (shapes.isEmpty()) {
      return names;
    }
    List<PickledValue> groups =
        shapes.get().isList() ? shapes.get().items() : List.of(shapes.get());
    for (PickledValue group : groups) {
      if (group.isDict()) {
        group.children().forEach(entry -> names.add(entry.key()));
      }
    }
    return names;
  }

  private int moduleTensors(
      TorchFile file,
      FileStat stat,
      PickledValue model,
      Set<String> trained,
      Set<String> frozen,
      SortedMap<String, String> into)
      throws IOException {
    Map<String, TensorNode> module = new ModelStates(model).module();
    Optional<PickledValue> named = model.findPresent("buffer_names");
    Set<String> bufferNames = new ModelStates(model).bufferNames();
    Set<String> parameters = new HashSet<>(trained);
    parameters.addAll(frozen);
    Set<String> places = new HashSet<>();
    module.forEach(
        (name, tensor) -> {
          if (parameters.contains(name)) {
            places.add(ModuleParameters.place(tensor));
          }
        });
    int buffers = 0;
    int others = 0;
    for (Map.Entry<String, TensorNode> entry : module.entrySet()) {
      String name = entry.getKey();
      TensorNode tensor = entry.getValue();
      if (trained.contains(name)) {
        dtypes.merge(tensor.dtype(), 1, Integer::sum);
        continue;
      }
      boolean buffer = bufferNames.contains(name);
      // A parameter by another name is no tensor of its own.
      if (tensor.numel() == 0
          || (!buffer && !frozen.contains(name) && !places.add(ModuleParameters.place(tensor)))) {
        continue;
      }
      if (!frozen.contains(name)) {
        buffers += buffer || named.isEmpty() ? 1 : 0;
        others += buffer || named.isEmpty() ? 0 : 1;
      }
      into.put(name, text.of(file, stat, file.path() + ", module." + name, tensor));
    }
    if (others > 0) {
      oddities.add(
          model.findPresent("frozen_param_shapes").isPresent()
              ? "%d tensors of the module are neither parameters nor buffers, such as quantization constants or what get_extra_state gives: carried as they are"
                  .formatted(others)
              : "%d tensors of the module are neither trained nor buffers: frozen parameters, which ZeRO-1 does not list, quantization constants or the like"
                  .formatted(others));
    }
    return buffers;
  }

  private SortedMap<String, String> optimizerValues(
      TorchFile file, FileStat stat, PickledValue optimizer) throws IOException {
    SortedMap<String, String> values = new TreeMap<>();
    for (String key : List.of("loss_scaler", "dynamic_loss_scale", "overflow", "clip_grad")) {
      Optional<PickledValue> value = child(optimizer, key);
      if (value.isPresent()) {
        flatten(file, stat, key, value.get(), 0, values);
      }
    }
    Optional<PickledValue> base =
        child(optimizer, "base_optimizer_state").or(() -> child(optimizer, "optimizer_state_dict"));
    if (base.isEmpty()) {
      return values;
    }
    Optional<PickledValue> groups =
        base.get().isDict() ? child(base.get(), "param_groups") : Optional.empty();
    if (groups.isEmpty()) {
      groups = child(optimizer, "param_groups");
    }
    if (groups.isPresent() && groups.get().isList()) {
      for (int g = 0; g < groups.get().items().size(); g++) {
        for (PickledValue.Entry entry : groups.get().items().get(g).children()) {
          if (!entry.key().equals("params")) {
            flatten(file, stat, "param_groups[" + g + "]." + entry.key(), entry.value(), 0, values);
          }
        }
      }
    }
    addCommonState(file, stat, base.get(), values);
    return values;
  }

  /** State that is not one number for each weight, such as {@code step}; its distinct values. */
  private void addCommonState(
      TorchFile file, FileStat stat, PickledValue base, SortedMap<String, String> values)
      throws IOException {
    List<PickledValue> states = new ArrayList<>();
    if (base.isList()) {
      states.addAll(base.items());
    } else if (child(base, "state").isPresent()) {
      child(base, "state").get().children().forEach(entry -> states.add(entry.value()));
    }
    Map<String, Set<String>> distinct = new TreeMap<>();
    for (PickledValue state : states) {
      if (!state.isDict()) {
        continue;
      }
      addCommonState(file, stat, "", state, 0, distinct);
    }
    distinct.forEach((key, found) -> values.put("state." + key, String.join(", ", found)));
  }

  private void addCommonState(
      TorchFile file,
      FileStat stat,
      String path,
      PickledValue state,
      int depth,
      Map<String, Set<String>> distinct)
      throws IOException {
    for (PickledValue.Entry entry : state.children()) {
      String name = path + entry.key();
      Optional<TensorNode> tensor = entry.value().asTensor();
      if (tensor.isPresent()) {
        if (Replicated.isReplicated(tensor.get())) {
          distinct
              .computeIfAbsent(name, key -> new TreeSet<>())
              .add(text.of(file, stat, entry.value().where(), tensor.get()));
        }
      } else if (entry.value().isDict() && depth < DEEPEST) {
        addCommonState(file, stat, name + ".", entry.value(), depth + 1, distinct);
      } else {
        distinct
            .computeIfAbsent(name, key -> new TreeSet<>())
            .add(PythonText.of(entry.value().node()));
      }
    }
  }

  private void addOddities(
      Optional<PickledValue> config,
      PickledValue optimizer,
      int stage,
      Set<String> frozen,
      TorchFile modelFile,
      TorchFile optimizerFile) {
    Optional<PickledValue> zero = config.flatMap(c -> child(c, "zero_optimization"));
    if (zero.flatMap(z -> child(z, "round_robin_gradients")).map(PickledValue::isTrue).orElse(false)
        && stage < 3) {
      oddities.add(
          "round_robin_gradients: parameters lie in an order that depends on the number of ranks,"
              + " and param_slice_mappings do not tell it");
    }
    if (child(optimizer, "base_optimizer_state").map(PickledValue::isList).orElse(false)) {
      oddities.add("elastic_checkpoint: optimizer states are saved without padding");
    }
    if (!frozen.isEmpty()) {
      oddities.add(
          "%d parameters are frozen: they have no optimizer state".formatted(frozen.size()));
    }
    if (!files.experts().isEmpty()) {
      oddities.add("a mixture of experts, in %d expert files".formatted(files.experts().size()));
    }
    if (!files.layers().isEmpty()) {
      oddities.add("a pipeline: weights lie in %d layer files".formatted(files.layers().size()));
    }
    List<TorchFile> read =
        files.tag().isEmpty() ? List.of(optimizerFile) : List.of(modelFile, optimizerFile);
    for (TorchFile file : read) {
      if (!file.hasCrcs()) {
        oddities.add(file.path() + " was saved without CRCs: damage cannot be found");
      }
      if (!file.reproducible()) {
        oddities.add(file.path() + " is not laid out as torch.save does it");
      }
    }
    if (!files.others().isEmpty() || !files.beside().isEmpty()) {
      oddities.add(
          "%d other files, copied as they are"
              .formatted(files.others().size() + files.beside().size()));
    }
  }

  /** The leaves of {@code value} as text by their path. */
  private void flatten(
      TorchFile file,
      FileStat stat,
      String path,
      PickledValue value,
      int depth,
      SortedMap<String, String> into)
      throws IOException {
    if (into.size() >= MOST_VALUES) {
      return;
    }
    Optional<TensorNode> tensor = value.asTensor();
    if (tensor.isPresent()) {
      into.put(path, text.of(file, stat, value.where(), tensor.get()));
    } else if (depth == DEEPEST) {
      into.put(path, value.describe());
    } else if (value.isDict()) {
      for (PickledValue.Entry entry : value.children()) {
        flatten(file, stat, path + "." + entry.key(), entry.value(), depth + 1, into);
      }
    } else if (value.isList() && !PythonText.isPlain(value.node())) {
      List<PickledValue> items = value.items();
      for (int i = 0; i < items.size(); i++) {
        flatten(file, stat, path + "[" + i + "]", items.get(i), depth + 1, into);
      }
    } else if (value.node() instanceof PyInstance made && made.state() instanceof PyDict) {
      PickledValue state = new PickledValue(value.file(), value.path(), made.state());
      for (PickledValue.Entry entry : state.children()) {
        flatten(file, stat, path + "." + entry.key(), entry.value(), depth + 1, into);
      }
    } else {
      into.put(path, PythonText.of(value.node()));
    }
  }
}
