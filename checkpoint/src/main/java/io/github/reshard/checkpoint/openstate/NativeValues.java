package io.github.reshard.checkpoint.openstate;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.SavedModule;
import io.github.reshard.checkpoint.deepspeed.TensorRecipe;
import io.github.reshard.checkpoint.parallel.Recut;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.zero12.OptimizerStates;
import io.github.reshard.checkpoint.zero3.ShardedStates;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.zip.CRC32;

/**
 * What DeepSpeed's files say beside the tensors and the hyper-parameters, as JSON: the field {@code
 * deepspeed} of {@code optimizer.json}, with which native files can be made of an open state again.
 * What has no place in JSON is left out and named.
 */
public final class NativeValues {
  private static final int MOST_SCALAR_BYTES = 64;

  private final SourceStore store;
  private final CheckpointFiles files;
  private final ReshardPlan plan;
  private final SavedModule module;
  private final Map<String, Recut> recuts;
  private final List<String> leftOut = new ArrayList<>();

  private NativeValues(
      SourceStore store,
      CheckpointFiles files,
      ReshardPlan plan,
      SavedModule module,
      Map<String, Recut> recuts) {
    this.store = store;
    this.files = files;
    this.plan = plan;
    this.module = module;
    this.recuts = recuts;
  }

  /**
   * The values; none of a pipeline or of experts, whose module lies in files of its own, and none
   * where rows behind the end of a vocabulary are left out, which a run has. Those of
   * tensor-parallel ranks are said as one rank would say them.
   *
   * @param plan of the same files, for the ranks that saved them
   * @param modules as {@link SavedModule} reads them
   * @param recuts how each parameter of tensor-parallel ranks is joined; empty if there are none
   * @param names what each tensor of the module is called in the output
   */
  public static Optional<Map<String, Object>> json(
      SourceStore store,
      CheckpointFiles files,
      ReshardPlan plan,
      List<SavedModule> modules,
      Map<String, Recut> recuts,
      Map<String, String> names)
      throws IOException {
    boolean joined = modules.size() > 1 && !recuts.isEmpty();
    boolean padded =
        recuts.values().stream()
            .flatMap(recut -> recut.source().stream())
            .anyMatch(local -> !local.padding().isEmpty());
    if ((modules.size() > 1 && !joined)
        || padded
        || !files.layers().isEmpty()
        || !files.experts().isEmpty()) {
      return Optional.empty();
    }
    return Optional.of(new NativeValues(store, files, plan, modules.get(0), recuts).json(names));
  }

  private Map<String, Object> json(Map<String, String> names) throws IOException {
    FileStat modelStat =
        files.rankModels().isEmpty()
            ? files.models().get(files.models().firstKey())
            : files.rankModels().get(files.rankModels().firstKey()).values().iterator().next();
    TorchFile modelFile = read(modelStat);
    ModelStates model = new ModelStates(root(modelFile));
    if (!recuts.isEmpty()) {
      TensorRecipe.toOneRank(model.root(), recuts);
    }
    Map<String, Object> json = new LinkedHashMap<>();
    json.put(OpenFormat.TAG, files.tag());
    json.put(OpenFormat.ORDER, order());
    json.put(OpenFormat.MODULE, module(model, names));
    if (model.root().get("module").node() instanceof PyInstance dict && dict.state() != null) {
      PlainValues.json(dict.state())
          .ifPresentOrElse(
              state -> json.put(OpenFormat.MODULE_STATE, state.json()),
              () -> leftOut.add(OpenFormat.MODULE_STATE));
    }
    if (model.root().find(ModelStates.FROZEN_SHAPES).isPresent()) {
      json.put(
          OpenFormat.FROZEN,
          model.root().findPresent(ModelStates.FROZEN_SHAPES).isEmpty()
              ? null
              : model.frozen().stream().map(parameter -> parameter.name()).toList());
    }
    json.put(OpenFormat.MODEL, said(model.root(), OpenFormat.NOT_OF_MODEL, OpenFormat.MODEL + "."));
    addOptimizer(json);
    json.put(OpenFormat.LEFT_OUT, leftOut);
    return json;
  }

  private TorchFile read(FileStat stat) throws IOException {
    try (RangedFile open = store.open(stat)) {
      return TorchFile.read(open);
    }
  }

  private static PickledValue root(TorchFile file) {
    return PickledValue.root(file.path(), file.parse().root());
  }

  /** The trained parameters of each param group, in the order in which the optimizer has them. */
  private List<List<String>> order() {
    Map<Integer, List<String>> byGroup = new TreeMap<>();
    for (PartitionedModel of : plan.models()) {
      if (!of.isFrozen()) {
        of.parameters()
            .forEach(
                parameter ->
                    byGroup
                        .computeIfAbsent(parameter.group(), g -> new ArrayList<>())
                        .add(parameter.name()));
      }
    }
    return List.copyOf(byGroup.values());
  }

  private List<Object> module(ModelStates model, Map<String, String> names) {
    Map<String, SavedModule.SavedTensor> saved = new LinkedHashMap<>();
    module.tensors().forEach(tensor -> saved.put(tensor.name(), tensor));
    List<Object> list = new ArrayList<>();
    for (PickledValue.Entry entry : model.root().get("module").children()) {
      String name = entry.key();
      Map<String, Object> said = new LinkedHashMap<>();
      said.put(OpenFormat.NAME, name);
      if (module.tied().containsKey(name)) {
        said.put(OpenFormat.SAME_AS, module.tied().get(name));
      } else if (saved.containsKey(name)) {
        said.put(OpenFormat.TENSOR, names.get(name));
        said.put(OpenFormat.DTYPE, saved.get(name).dtype().torchName());
      } else {
        leftOut.add("module." + name);
        continue;
      }
      list.add(said);
    }
    return list;
  }

  private Map<String, Object> said(PickledValue dict, Set<String> not, String prefix) {
    Map<String, Object> said = new LinkedHashMap<>();
    for (PickledValue.Entry entry : dict.children()) {
      if (!not.contains(entry.key())) {
        PlainValues.json(entry.value().node())
            .ifPresentOrElse(
                value -> said.put(entry.key(), value.json()),
                () -> leftOut.add(prefix + entry.key()));
      }
    }
    return said;
  }

  private void addOptimizer(Map<String, Object> json) throws IOException {
    List<Map<String, Object>> groups = new ArrayList<>();
    // A rank whose partition of a group is all padding may have no state of it.
    for (FileStat stat : files.optimizers().get(files.optimizers().firstKey()).values()) {
      TorchFile file = read(stat);
      OptimizerFile optimizer = new OptimizerFile(root(file));
      boolean sharded = optimizer.stateDict().find(OptimizerFile.FLAT_GROUPS).isPresent();
      if (groups.isEmpty()) {
        json.put(OpenFormat.STAGE, optimizer.isBf16Optimizer() ? null : (Object) optimizer.stage());
        json.put(
            OpenFormat.OPTIMIZER,
            said(optimizer.stateDict(), OpenFormat.NOT_OF_OPTIMIZER, OpenFormat.OPTIMIZER + "."));
        for (PickledValue options : options(optimizer.root(), sharded)) {
          groups.add(group(options));
        }
      }
      for (int g = 0; g < groups.size(); g++) {
        if (!groups.get(g).containsKey(OpenFormat.STATE)) {
          Optional<PickledValue> state = state(optimizer.root(), sharded, g);
          if (state.isPresent()) {
            groups.get(g).put(OpenFormat.STATE, state(state.get(), g, stat, file));
          }
        }
      }
      if (groups.stream().allMatch(group -> group.containsKey(OpenFormat.STATE))) {
        break;
      }
    }
    json.put(OpenFormat.GROUPS, groups);
  }

  private static List<PickledValue> options(PickledValue root, boolean sharded) {
    return sharded
        ? new ShardedStates(root).paramGroups().items()
        : new OptimizerStates(root).baseState().get(OpenFormat.PARAM_GROUPS).items();
  }

  private static Optional<PickledValue> state(PickledValue root, boolean sharded, int group) {
    if (!sharded) {
      return new OptimizerStates(root)
          .stateNode(group)
          .map(node -> new PickledValue(root.file(), "state[" + group + "]", node));
    }
    ShardedStates states = new ShardedStates(root);
    return states.subGroups().get(group).stream().findFirst().flatMap(states::state);
  }

  private Map<String, Object> group(PickledValue options) {
    Map<String, Object> group = new LinkedHashMap<>();
    List<String> tuples = new ArrayList<>();
    for (PickledValue.Entry option : options.children()) {
      if (option.value().node() instanceof PyTuple) {
        tuples.add(option.key());
      }
      if (option.key().equals(OpenFormat.STEP)) {
        PlainValues.json(option.value().node())
            .ifPresentOrElse(
                value -> group.put(OpenFormat.STEP_OPTION, value.json()),
                () -> leftOut.add(option.value().path()));
      }
    }
    group.put(OpenFormat.TUPLES, tuples);
    return group;
  }

  /** What of the state of a group is not one number for each weight. */
  private Map<String, Object> state(PickledValue state, int group, FileStat stat, TorchFile file)
      throws IOException {
    Set<String> partitioned = new LinkedHashSet<>();
    for (PartitionedModel of : plan.models()) {
      for (int p = 0; p < of.parameters().size(); p++) {
        if (of.parameters().get(p).group() == group && !of.isFrozen()) {
          partitioned.addAll(of.statesOf(p).keySet());
        }
      }
    }
    Map<String, Object> said = new LinkedHashMap<>();
    for (PyEntries.Entry entry : state.entries()) {
      String key = entry.key() instanceof PyStr name ? name.value() : String.valueOf(entry.key());
      if (partitioned.contains(key)) {
        continue;
      }
      Optional<PlainValues.Said> value = value(entry.value(), state, stat, file);
      if (value.isPresent()) {
        said.put(key, value.get().json());
      } else {
        leftOut.add("param_groups[%d].state.%s".formatted(group, key));
      }
    }
    return said;
  }

  private Optional<PlainValues.Said> value(
      PyObject node, PickledValue state, FileStat stat, TorchFile file) throws IOException {
    Optional<TensorNode> tensor = TensorNode.of(node);
    if (tensor.isEmpty()) {
      return PlainValues.json(node);
    }
    if (tensor.get().numel() != 1) {
      return Optional.empty();
    }
    tensor.get().requireInBounds(state.where());
    TorchFile.Entry entry = file.storage(tensor.get().storageKey()).orElseThrow();
    if (entry.bytes() > MOST_SCALAR_BYTES) {
      return Optional.empty();
    }
    ByteBuffer bytes = store.read(stat, entry.payloadOffset(), entry.bytes());
    CRC32 crc = new CRC32();
    crc.update(bytes.duplicate());
    if (file.hasCrcs() && (int) crc.getValue() != entry.crc32()) {
      throw new RefusedException(
          state.where(),
          "expected CRC %08x of entry %s, found %08x: the file is damaged; copy it again"
              .formatted(entry.crc32(), entry.name(), (int) crc.getValue()));
    }
    int width = tensor.get().dtype().bytes();
    byte[] element = new byte[width];
    bytes.get(Math.toIntExact(tensor.get().storageOffset() * width), element);
    return Optional.of(
        new PlainValues.Said(
            Map.of(
                OpenFormat.SCALAR,
                List.of(
                    tensor.get().dtype().torchName(),
                    Arrays.stream(tensor.get().shape()).boxed().toList(),
                    HexFormat.of().formatHex(element)))));
  }
}
