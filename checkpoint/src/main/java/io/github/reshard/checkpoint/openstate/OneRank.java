package io.github.reshard.checkpoint.openstate;

import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.format.ComposedTorchFile;
import io.github.reshard.checkpoint.format.ComposedTorchFile.Piece;
import io.github.reshard.checkpoint.format.ComposedTorchFile.Storage;
import io.github.reshard.checkpoint.pickle.DictBuilder;
import io.github.reshard.checkpoint.pickle.GraphCopy;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.storage.ComposedStore.Composed;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.universal.UniversalFiles;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * The files of a Universal Checkpoint of ZeRO-1, 2 or BF16_Optimizer, put together of an open
 * state. One that was made of ZeRO-3 is seen as ZeRO-2, so that its masters have weights to be held
 * against.
 */
final class OneRank {
  /** Of what is saved since PyTorch 1.6. */
  private static final int PROTOCOL = 2;

  private static final String MODULE = "module";

  private final WholeState whole;
  private final OpenState state;
  private final FlatLayout layout;

  OneRank(WholeState whole) {
    this.whole = whole;
    this.state = whole.state();
    this.layout = whole.layout();
  }

  /** {@code mp_rank_00_model_states.pt} of a run of one rank. */
  Composed modelFile() {
    Map<String, List<Piece>> storages = new HashMap<>();
    Map<String, PyObject> nodes = new LinkedHashMap<>();
    for (int g = 0; g < layout.buckets(); g++) {
      placeGroup(g, nodes, storages);
    }
    PyInstance weights = DictBuilder.orderedDict();
    for (OpenState.ModuleTensor tensor : state.module()) {
      if (tensor.tensor() != null && !nodes.containsKey(tensor.name())) {
        nodes.put(tensor.name(), alone(tensor.name(), storages));
      }
    }
    for (OpenState.ModuleTensor tensor : state.module()) {
      PyObject node = nodes.get(tensor.tensor() == null ? tensor.sameAs() : tensor.name());
      if (node == null) {
        throw whole.refused(
            "deepspeed.module." + tensor.name(),
            "is the same as %s, which is no tensor of the module.".formatted(tensor.sameAs()));
      }
      weights
          .dictItems()
          .add(new PyStr(tensor.name()), tensor.tensor() == null ? GraphCopy.of(node) : node);
    }
    if (state.moduleState() != null) {
      weights.setState(
          PlainValues.value(state.path() + ", deepspeed.module_state", state.moduleState()));
    }
    PyList shapes = new PyList();
    for (int g = 0; g < layout.buckets(); g++) {
      PyInstance ofGroup = DictBuilder.orderedDict();
      for (Parameter parameter : whole.parameters()) {
        if (parameter.group() == g) {
          ofGroup.dictItems().add(new PyStr(parameter.name()), size(parameter.shape()));
        }
      }
      shapes.items().add(ofGroup);
    }
    DictBuilder root = new DictBuilder().put(MODULE, weights).put(ModelStates.PARAM_SHAPES, shapes);
    if (state.listsFrozen()) {
      addFrozen(root, nodes);
    }
    state
        .model()
        .forEach(
            (key, value) ->
                root.put(key, PlainValues.value(state.path() + ", deepspeed.model." + key, value)));
    root.put(ModelStates.DP_WORLD_SIZE, PyInt.of(1));
    String path = path("mp_rank_00_model_states.pt");
    PickledValue made = PickledValue.root(path, root.dict());
    if (state.stage() == 3) {
      DsConfig.of(made).setStage(seenStage());
    }
    return composed(path, root.dict(), storages);
  }

  private static PyObject size(List<Long> shape) {
    return TensorNode.size(shape.stream().mapToLong(Long::longValue).toArray());
  }

  /** The stage that it is seen as. */
  private int seenStage() {
    return Math.min(2, state.stage());
  }

  /** Messages name what is there, and as which file it is seen. */
  private String path(String name) {
    return state.path() + ", seen as " + state.tag() + "/" + name;
  }

  /** The weights of a param group, which lie flat in one storage if they are of one type. */
  private void placeGroup(int g, Map<String, PyObject> nodes, Map<String, List<Piece>> storages) {
    Set<DType> types = new HashSet<>();
    for (String name : state.groups().get(g).order()) {
      types.add(whole.weight(name).dtype());
    }
    if (types.size() > 1) {
      return;
    }
    DType dtype = types.iterator().next();
    String key = "flat weights of group " + g;
    List<Piece> pieces = new ArrayList<>();
    long elements = layout.flatElements(g);
    long bytes = 0;
    for (int p : layout.flatOrder(g)) {
      Parameter parameter = whole.parameters().get(p);
      PyInstance node = TensorNode.create(dtype, key, false, elements);
      TensorNode.of(node)
          .orElseThrow()
          .setGeometry(
              layout.flatStart(p), parameter.shape().stream().mapToLong(Long::longValue).toArray());
      nodes.put(parameter.name(), node);
      Piece piece = whole.weightPiece(parameter.name(), whole.weight(parameter.name()));
      pieces.add(piece);
      bytes += piece.bytes();
    }
    if (bytes < elements * dtype.bytes()) {
      pieces.add(Piece.zeros(elements * dtype.bytes() - bytes));
    }
    storages.put(key, pieces);
  }

  private PyObject alone(String name, Map<String, List<Piece>> storages) {
    OpenTensors.Tensor tensor = whole.weight(name);
    String key = "weight " + name;
    storages.put(key, List.of(whole.weightPiece(name, tensor)));
    return TensorNode.create(
        tensor.dtype(), key, false, tensor.shape().stream().mapToLong(Long::longValue).toArray());
  }

  private void addFrozen(DictBuilder root, Map<String, PyObject> nodes) {
    if (state.frozen() == null) {
      root.put(ModelStates.FROZEN_SHAPES, PyNone.NONE);
      root.put(ModelStates.FROZEN_FRAGMENTS, PyNone.NONE);
      return;
    }
    PyInstance shapes = DictBuilder.orderedDict();
    PyInstance fragments = DictBuilder.orderedDict();
    for (String name : state.frozen()) {
      PyObject node = nodes.get(name);
      if (node == null) {
        throw whole.refused(
            OpenFormat.FROZEN, "names %s, which is no tensor of the module.".formatted(name));
      }
      shapes.dictItems().add(new PyStr(name), size(whole.weight(name).shape()));
      fragments.dictItems().add(new PyStr(name), GraphCopy.of(node));
    }
    root.put(ModelStates.FROZEN_SHAPES, shapes).put(ModelStates.FROZEN_FRAGMENTS, fragments);
  }

  /** {@code zero/optimizer_state.pt}. */
  Composed optimizerFile() {
    Map<String, List<Piece>> storages = new HashMap<>();
    PyList groups = new PyList();
    PyDict states = new PyDict();
    for (int g = 0; g < state.groups().size(); g++) {
      OpenState.Group group = state.groups().get(g);
      String where = state.path() + ", param_groups[" + g + "].options.";
      DictBuilder options = new DictBuilder();
      group
          .options()
          .forEach(
              (key, value) ->
                  options.put(
                      key, PlainValues.option(where + key, value, group.tuples().contains(key))));
      group
          .stepOption()
          .ifPresent(step -> options.put(OpenFormat.STEP, PlainValues.value(where + "step", step)));
      groups.items().add(options.put("params", PyList.of(List.of(PyInt.of(g)))).dict());
      DictBuilder common = new DictBuilder();
      for (Map.Entry<String, ?> value : group.state().entrySet()) {
        String at = state.path() + ", deepspeed.groups[" + g + "].state." + value.getKey();
        Optional<ScalarTensor> scalar = ScalarTensor.of(at, value.getValue());
        if (scalar.isPresent()) {
          String key = "group " + g + " " + value.getKey();
          storages.put(key, List.of(Piece.of(scalar.get().bytes())));
          common.put(value.getKey(), scalar.get().tensor(key));
        } else {
          common.put(value.getKey(), PlainValues.value(at, value.getValue()));
        }
      }
      states.entries().add(PyInt.of(g), common.dict());
    }
    DictBuilder root = new DictBuilder();
    state
        .optimizer()
        .forEach(
            (key, value) ->
                root.put(
                    key, PlainValues.value(state.path() + ", deepspeed.optimizer." + key, value)));
    if (state.zeroStage().isPresent()) {
      root.put(OptimizerFile.ZERO_STAGE, PyInt.of(seenStage()));
    }
    if (state.stage() == 3) {
      addOfFlat(root);
    }
    PyDict inner =
        new DictBuilder().put(OpenFormat.STATE, states).put(OpenFormat.PARAM_GROUPS, groups).dict();
    root.put(OpenFormat.PARAM_GROUPS, groups).put(OptimizerFile.WRAPPER, inner);
    return composed(
        state.path() + ", seen as " + UniversalFiles.optimizer(state.tag()), root.dict(), storages);
  }

  /** What the files of ZeRO-1 and 2 say and those of ZeRO-3 do not. */
  private void addOfFlat(DictBuilder root) {
    PyDict model = new PyDict();
    for (String key : List.of("ds_config", OptimizerFile.VERSION)) {
      if (state.model().containsKey(key)) {
        model
            .entries()
            .add(new PyStr(key), PlainValues.value(state.path(), state.model().get(key)));
      }
    }
    PickledValue values = PickledValue.root(state.path(), model);
    root.put("clip_grad", DsConfig.of(values).gradientClipping());
    values
        .findPresent(OptimizerFile.VERSION)
        .ifPresent(version -> root.put(OptimizerFile.VERSION, version.node()));
  }

  /** The files of the states of parameters, by their paths below the directory. */
  Map<String, Composed> stateFiles() {
    Map<String, Composed> files = new LinkedHashMap<>();
    for (Parameter parameter : whole.parameters()) {
      Map<String, String> tensors = whole.tensorsOf(parameter);
      whole
          .states(parameter)
          .forEach(
              (name, found) -> {
                PyInstance node =
                    TensorNode.create(
                        found.dtype(),
                        name,
                        false,
                        found.shape().stream().mapToLong(Long::longValue).toArray());
                String path = UniversalFiles.ofState(state.tag(), parameter.name(), name);
                files.put(
                    path,
                    composed(
                        found.file().path() + ", " + tensors.get(name) + ", seen as " + path,
                        new DictBuilder().put("param", node).dict(),
                        Map.of(name, List.of(whole.statePiece(parameter.name(), name, found)))));
              });
    }
    return files;
  }

  private static Composed composed(String path, PyObject root, Map<String, List<Piece>> storages) {
    List<Storage> listed = new ArrayList<>();
    StorageKeys.renumber(path, root)
        .forEach((key, old) -> listed.add(new Storage(key, storages.get(old.key()))));
    return ComposedTorchFile.of(path, root, PROTOCOL, listed);
  }
}
