package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Which tensors of {@code module} in a model file of ZeRO-1 or 2 are parameters. A module's {@code
 * state_dict()} also has buffers, what {@code get_extra_state} gives, the constants that quantised
 * weights need, and what hooks add; ZeRO-3 partitions none of these, and its model files hold them
 * whole (DeepSpeed 0.19.6, runtime/engine.py, {@code module_state_dict}; seen with {@code
 * get_extra_state}, read for bitsandbytes 0.50).
 *
 * @param trained the names of those that a param group trains
 * @param frozen the weights of those that none does, once each, in DeepSpeed's order if it tells
 * @param others of other names of parameters, which one they name
 */
public record ModuleParameters(
    Set<String> trained, Map<String, TensorNode> frozen, Map<String, String> others) {

  /** {@code torch.nn.modules.module._EXTRA_STATE_KEY_SUFFIX} (PyTorch 2.6). */
  private static final String EXTRA_STATE = "_extra_state";

  /** Beside an int8 weight (bitsandbytes 0.50, nn/modules.py, {@code Linear8bitLt}). */
  private static final List<String> OF_INT8 = List.of("SCB", "weight_format");

  /**
   * Reads them.
   *
   * @throws RefusedException if it cannot be told whether a tensor is a frozen parameter, or one
   *     has no weight
   */
  public static ModuleParameters of(ModelStates model) {
    Map<String, TensorNode> module = model.module();
    Map<String, Parameter> trained = new LinkedHashMap<>();
    model.flatGroups().forEach(group -> group.forEach(p -> trained.put(p.name(), p)));
    Map<String, String> others = new HashMap<>(tied(model));
    Map<String, String> places = new HashMap<>();
    module.forEach(
        (name, weight) -> {
          if (trained.containsKey(name)) {
            places.putIfAbsent(place(weight), name);
          }
        });
    Map<String, TensorNode> frozen =
        model.root().findPresent(ModelStates.FROZEN_SHAPES).isPresent()
            ? listed(model, module)
            : listsNone(model)
                ? new LinkedHashMap<>()
                : unlisted(model, module, trained.keySet(), others, places);
    frozen.forEach((name, weight) -> places.putIfAbsent(place(weight), name));
    Set<String> buffers = model.bufferNames();
    module.forEach(
        (name, tensor) -> {
          String same = places.get(place(tensor));
          if (same != null && !buffers.contains(name) && !same.equals(name)) {
            others.putIfAbsent(name, same);
          }
        });
    others.keySet().removeAll(trained.keySet());
    others.keySet().removeAll(frozen.keySet());
    return new ModuleParameters(trained.keySet(), frozen, others);
  }

  /** The names that {@code shared_params} gives other parameters. */
  public static Map<String, String> tied(ModelStates model) {
    Map<String, String> tied = new HashMap<>();
    model
        .root()
        .findPresent(ModelStates.SHARED_PARAMS)
        .ifPresent(
            shared ->
                shared
                    .children()
                    .forEach(entry -> tied.put(entry.key(), entry.value().asString())));
    return tied;
  }

  /** Whether {@code name} names a parameter. */
  public boolean contains(String name) {
    return trained.contains(name) || frozen.containsKey(name) || others.containsKey(name);
  }

  /** The parameter that {@code name} names. */
  public String own(String name) {
    return others.getOrDefault(name, name);
  }

  /**
   * Whether frozen parameters were left out: from stage 2 on they are listed, but for {@code
   * exclude_frozen_parameters}, which takes them out of the module as well. Before DeepSpeed 0.8
   * there were no lists.
   */
  public static boolean listsNone(ModelStates model) {
    return model.root().find(ModelStates.FROZEN_SHAPES).isPresent()
        && model.root().findPresent(ModelStates.FROZEN_SHAPES).isEmpty()
        && !savedAtStage1(model);
  }

  /** Whether {@code ds_config} says stage 1, at which nothing lists frozen parameters. */
  public static boolean savedAtStage1(ModelStates model) {
    return DsConfig.of(model.root())
        .zero("stage")
        .flatMap(PickledValue::asWhole)
        .filter(stage -> stage == 1)
        .isPresent();
  }

  /** Two tensors at one place of one shape are one parameter by two names. */
  public static String place(TensorNode tensor) {
    return tensor.numel() == 0
        ? "nowhere " + System.identityHashCode(tensor.node())
        : tensor.storageKey()
            + " "
            + tensor.storageOffset()
            + Arrays.toString(tensor.shape())
            + Arrays.toString(tensor.stride());
  }

  private static Map<String, TensorNode> listed(ModelStates model, Map<String, TensorNode> module) {
    Map<String, PickledValue> fragments = model.frozenFragments();
    Map<String, TensorNode> frozen = new LinkedHashMap<>();
    for (Parameter parameter : model.frozen()) {
      String name = parameter.name();
      // A hook may leave it out of the module (adapters only); its fragment is whole as well.
      TensorNode weight =
          module.containsKey(name)
              ? module.get(name)
              : fragments.containsKey(name) ? fragments.get(name).tensor() : null;
      if (weight == null || !parameter.hasShape(weight.shape())) {
        throw model
            .root()
            .get(ModelStates.FROZEN_SHAPES)
            .refused(
                "expected a weight of shape %s for %s in module, found %s."
                    .formatted(
                        parameter.shape(),
                        name,
                        weight == null ? "none" : Arrays.toString(weight.shape())));
      }
      frozen.put(name, weight);
    }
    return frozen;
  }

  /** At stage 1 a frozen parameter is what cannot be anything else. */
  private static Map<String, TensorNode> unlisted(
      ModelStates model,
      Map<String, TensorNode> module,
      Set<String> trained,
      Map<String, String> tied,
      Map<String, String> places) {
    Set<String> buffers = model.bufferNames();
    Set<String> flat = new HashSet<>();
    trained.forEach(
        name -> {
          if (module.containsKey(name)) {
            flat.add(module.get(name).storageKey());
          }
        });
    Map<String, TensorNode> frozen = new LinkedHashMap<>();
    Set<String> seen = new HashSet<>(places.keySet());
    module.forEach(
        (name, tensor) -> {
          if (trained.contains(name)
              || buffers.contains(name)
              || tied.containsKey(name)
              || flat.contains(tensor.storageKey())
              || isConstant(module, name)
              || !seen.add(place(tensor))) {
            return;
          }
          if (!isFloating(tensor.dtype()) && !isQuantized(module, name)) {
            throw model
                .root()
                .get("module")
                .refused(
                    "it cannot be told whether %s, a tensor of %s, is a frozen parameter: ZeRO-1 does not list them. Load the checkpoint once at stage 2 and save it again, or leave --targetStage out."
                        .formatted(name, tensor.dtype().torchName()));
          }
          frozen.put(name, tensor);
        });
    frozen.values().removeIf(tensor -> isWithinAnother(tensor, frozen));
    return frozen;
  }

  /** A module has no child by the name of its parameter, so what is below one is none. */
  static boolean isConstant(Map<String, TensorNode> module, String name) {
    for (int dot = name.indexOf('.'); dot >= 0; dot = name.indexOf('.', dot + 1)) {
      if (module.containsKey(name.substring(0, dot))) {
        return true;
      }
    }
    String last = name.substring(name.lastIndexOf('.') + 1);
    return last.equals(EXTRA_STATE)
        || (OF_INT8.contains(last)
            && module.containsKey(sibling(name, "weight"))
            && module.get(sibling(name, "weight")).dtype() == DType.INT8);
  }

  private static boolean isQuantized(Map<String, TensorNode> module, String name) {
    return module.containsKey(sibling(name, "SCB"))
        || module.keySet().stream().anyMatch(other -> other.startsWith(name + "."));
  }

  private static String sibling(String name, String last) {
    return name.substring(0, name.lastIndexOf('.') + 1) + last;
  }

  static boolean isFloating(DType dtype) {
    return dtype.torchName().startsWith("float") || dtype == DType.BFLOAT16;
  }

  /** Whether it shows a part of what another one shows, as a hook that splits weights gives it. */
  private static boolean isWithinAnother(TensorNode tensor, Map<String, TensorNode> frozen) {
    return frozen.values().stream()
        .anyMatch(
            other ->
                other.storageKey().equals(tensor.storageKey())
                    && other.numel() > tensor.numel()
                    && tensor.numel() > 0
                    && other.storageOffset() <= tensor.storageOffset()
                    && other.lastElement() >= tensor.lastElement());
  }
}
