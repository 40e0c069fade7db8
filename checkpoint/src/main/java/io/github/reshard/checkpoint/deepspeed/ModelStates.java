package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.pickle.DictBuilder;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.IntFunction;
import java.util.stream.Collectors;

/**
 * What a model file says (DeepSpeed 0.19.6, runtime/engine.py, {@code _common_checkpoint_state}).
 *
 * @param root the pickled dict
 */
public record ModelStates(PickledValue root) {
  public static final String DP_WORLD_SIZE = "dp_world_size";
  public static final String PARAM_SHAPES = "param_shapes";
  public static final String SHARED_PARAMS = "shared_params";
  public static final String FROZEN_FRAGMENTS = "frozen_param_fragments";
  public static final String FROZEN_SHAPES = "frozen_param_shapes";

  /** Keys of what is neither a counter, nor a scheduler, nor the user's. */
  public static final Set<String> OF_DEEPSPEED =
      Set.of(
          "module",
          "buffer_names",
          "optimizer",
          PARAM_SHAPES,
          FROZEN_SHAPES,
          FROZEN_FRAGMENTS,
          SHARED_PARAMS,
          DP_WORLD_SIZE,
          "mp_world_size",
          "checkpoint_parallel_dimensions",
          "ds_config",
          "ds_version",
          "num_experts",
          "sparse_tensor_module_names",
          "csr_tensor_module_names");

  public int dpWorldSize() {
    return root.get(DP_WORLD_SIZE).asInt();
  }

  /**
   * Whether it names the parameters and their shapes: that of a native mixture of experts does not
   * before DeepSpeed 0.19.3 ({@code ExpertGroups} of {@code zero12}).
   */
  public boolean hasShapes() {
    return root.find(PARAM_SHAPES).isPresent() || root.findPresent("num_experts").isEmpty();
  }

  /** The param groups, each in the order of its flat buffer. */
  public List<List<Parameter>> flatGroups() {
    PickledValue shapes = root.get(PARAM_SHAPES);
    if (!shapes.isList()) {
      throw shapes.refused(
          "expected a list of param groups, found "
              + shapes.describe()
              + ". Only checkpoints of ZeRO stages 1, 2 and 3 have partitioned optimizer states.");
    }
    List<List<Parameter>> groups = new ArrayList<>();
    for (PickledValue group : shapes.items()) {
      List<Parameter> parameters = new ArrayList<>();
      for (PickledValue.Entry entry : group.children()) {
        parameters.add(new Parameter(entry.key(), entry.value().asSize(), groups.size()));
      }
      groups.add(parameters);
    }
    return groups;
  }

  /** The module's tensors by name; empty in pipeline runs, whose layers have files of their own. */
  public Map<String, TensorNode> module() {
    Map<String, TensorNode> tensors = new LinkedHashMap<>();
    Optional<PickledValue> module = root.findPresent("module");
    if (module.isPresent()) {
      for (PickledValue.Entry entry : module.get().children()) {
        entry.value().asTensor().ifPresent(tensor -> tensors.put(entry.key(), tensor));
      }
    }
    return tensors;
  }

  /** The configuration, if it is stored. */
  public Optional<DsConfig> config() {
    return DsConfig.ifStored(root);
  }

  /** The names of the module's tensors that are no parameters. */
  public Set<String> bufferNames() {
    return root.findPresent("buffer_names").stream()
        .flatMap(names -> names.items().stream())
        .map(PickledValue::asString)
        .collect(Collectors.toSet());
  }

  /** The names that stand for another parameter; only global rank 0 records them. */
  public Set<String> tiedNames() {
    return root.findPresent(SHARED_PARAMS).stream()
        .flatMap(shared -> shared.children().stream())
        .map(PickledValue.Entry::key)
        .collect(Collectors.toSet());
  }

  /** The full shapes of the parameters that are not trained, each a group of its own. */
  public List<Parameter> frozen() {
    List<Parameter> frozen = new ArrayList<>();
    root.findPresent(FROZEN_SHAPES)
        .ifPresent(
            shapes -> {
              for (PickledValue.Entry entry : shapes.children()) {
                frozen.add(new Parameter(entry.key(), entry.value().asSize(), frozen.size()));
              }
            });
    return frozen;
  }

  /** A rank's pieces of the parameters that are not trained. */
  public Map<String, PickledValue> frozenFragments() {
    Map<String, PickledValue> fragments = new LinkedHashMap<>();
    root.findPresent(FROZEN_FRAGMENTS).stream()
        .flatMap(all -> all.children().stream())
        .forEach(entry -> fragments.put(entry.key(), entry.value()));
    return fragments;
  }

  /**
   * Lists the same shapes anew.
   *
   * @param buckets how many groups the list has
   * @param namesOf the names in each of them, in order
   */
  public void setShapes(int buckets, IntFunction<List<String>> namesOf) {
    PickledValue shapes = root.get(PARAM_SHAPES);
    Map<String, PyEntries.Entry> byName = new HashMap<>();
    for (PickledValue group : shapes.items()) {
      for (PyEntries.Entry entry : group.entries()) {
        byName.put(((PyStr) entry.key()).value(), entry);
      }
    }
    List<PyObject> list = ((PyList) shapes.node()).items();
    list.clear();
    for (int b = 0; b < buckets; b++) {
      PyInstance bucket = DictBuilder.orderedDict();
      namesOf.apply(b).forEach(name -> bucket.dictItems().list().add(byName.get(name)));
      list.add(bucket);
    }
  }
}
