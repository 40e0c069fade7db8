package io.github.reshard.checkpoint.zero;

import io.github.reshard.checkpoint.layout.Parameter;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * What a model file of ZeRO-1 or 2 says (DeepSpeed 0.19.6, runtime/engine.py, {@code
 * _common_checkpoint_state}).
 *
 * @param root the pickled dict
 */
record ModelStates(PickledValue root) {
  static final String DP_WORLD_SIZE = "dp_world_size";
  static final String PARAM_SHAPES = "param_shapes";

  int dpWorldSize() {
    return root.get(DP_WORLD_SIZE).asInt();
  }

  /** The param groups, each in the order of its flat buffer. */
  List<List<Parameter>> flatGroups() {
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
  Map<String, TensorNode> module() {
    Map<String, TensorNode> tensors = new LinkedHashMap<>();
    Optional<PickledValue> module = root.findPresent("module");
    if (module.isPresent()) {
      for (PickledValue.Entry entry : module.get().children()) {
        entry.value().asTensor().ifPresent(tensor -> tensors.put(entry.key(), tensor));
      }
    }
    return tensors;
  }

  /** Whether {@code ds_config} asks for round robin (runtime/zero/config.py). */
  boolean roundRobin() {
    return zeroConfig("round_robin_gradients").map(PickledValue::isTrue).orElse(false);
  }

  /** Whether {@code ds_config} orders ranks by data before experts (runtime/config.py). */
  boolean dataBeforeExperts() {
    return root.findPresent("ds_config")
        .filter(PickledValue::isDict)
        .flatMap(config -> config.findPresent("use_data_before_expert_parallelism"))
        .map(PickledValue::isTrue)
        .orElse(false);
  }

  private Optional<PickledValue> zeroConfig(String key) {
    return root.findPresent("ds_config")
        .filter(PickledValue::isDict)
        .flatMap(config -> config.findPresent("zero_optimization"))
        .filter(PickledValue::isDict)
        .flatMap(zero -> zero.findPresent(key));
  }
}
