package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/**
 * The optimizers of {@code torch.optim} whose states are one number for each element, and so mean
 * the same however a parameter is cut: by their states, and with the options that {@code
 * load_state_dict} asks for (PyTorch 2.15, the {@code defaults} of each).
 *
 * @param states that each of its parameters has
 * @param furtherStates that it may have
 * @param counts whether each parameter has a {@code step}
 * @param required hyper-parameters without which it is not known
 * @param defaults of options that a version or another implementation does not save
 */
record OptimizerKind(
    List<String> states,
    Set<String> furtherStates,
    boolean counts,
    List<String> required,
    Map<String, PyObject> defaults) {

  /** Adam and AdamW, and DeepSpeed's of both names. */
  private static final OptimizerKind ADAM =
      new OptimizerKind(
          List.of("exp_avg", "exp_avg_sq"),
          Set.of("max_exp_avg_sq"),
          true,
          List.of("lr", "betas", "eps", "weight_decay"),
          options(
              "amsgrad",
              PyBool.FALSE,
              "maximize",
              PyBool.FALSE,
              "foreach",
              PyNone.NONE,
              "capturable",
              PyBool.FALSE,
              "differentiable",
              PyBool.FALSE,
              "fused",
              PyNone.NONE,
              // AdamW sets it to True whatever is loaded, and Adam must not become AdamW.
              "decoupled_weight_decay",
              PyBool.FALSE));

  /** SGD with momentum. */
  private static final OptimizerKind SGD =
      new OptimizerKind(
          List.of("momentum_buffer"),
          Set.of(),
          false,
          List.of("lr", "momentum", "weight_decay"),
          options(
              "dampening",
              PyInt.of(0),
              "nesterov",
              PyBool.FALSE,
              "maximize",
              PyBool.FALSE,
              "foreach",
              PyNone.NONE,
              "differentiable",
              PyBool.FALSE,
              "fused",
              PyNone.NONE));

  /** SGD without momentum, which keeps no state. */
  private static final OptimizerKind PLAIN_SGD =
      new OptimizerKind(List.of(), Set.of(), false, SGD.required(), SGD.defaults());

  /** Adagrad. */
  private static final OptimizerKind ADAGRAD =
      new OptimizerKind(
          List.of("sum"),
          Set.of(),
          true,
          List.of("lr", "eps", "weight_decay"),
          options(
              "lr_decay",
              PyInt.of(0),
              "initial_accumulator_value",
              PyInt.of(0),
              "maximize",
              PyBool.FALSE,
              "foreach",
              PyNone.NONE,
              "differentiable",
              PyBool.FALSE,
              "fused",
              PyNone.NONE));

  /** RMSprop. */
  private static final OptimizerKind RMSPROP =
      new OptimizerKind(
          List.of("square_avg"),
          Set.of("momentum_buffer", "grad_avg"),
          true,
          List.of("lr", "alpha", "eps", "momentum", "weight_decay"),
          options(
              "centered",
              PyBool.FALSE,
              "maximize",
              PyBool.FALSE,
              "foreach",
              PyNone.NONE,
              "capturable",
              PyBool.FALSE,
              "differentiable",
              PyBool.FALSE));

  private static final List<OptimizerKind> ALL = List.of(ADAM, SGD, PLAIN_SGD, ADAGRAD, RMSPROP);

  private static Map<String, PyObject> options(Object... options) {
    Map<String, PyObject> map = new LinkedHashMap<>();
    for (int o = 0; o < options.length; o += 2) {
      map.put((String) options[o], (PyObject) options[o + 1]);
    }
    return map;
  }

  /**
   * Whose states these are.
   *
   * @param where the checkpoint, for messages
   * @throws RefusedException if they are no known optimizer's
   */
  static OptimizerKind of(Set<String> states, String where) {
    for (OptimizerKind kind : ALL) {
      Set<String> further = new TreeSet<>(states);
      kind.states.forEach(further::remove);
      further.removeAll(kind.furtherStates);
      if (further.isEmpty() && states.containsAll(kind.states)) {
        return kind;
      }
    }
    throw new RefusedException(
        where,
        "the optimizer's states are %s, which are not those of Adam, AdamW, SGD, Adagrad or RMSprop of torch.optim. Whether they mean the same when FSDP cuts the parameters is not known, so they are not taken to a distributed checkpoint."
            .formatted(new TreeSet<>(states)));
  }

  /**
   * Every option that some loader asks for: what is missing in a loaded state dict is an error,
   * what is there beside it is not looked at.
   *
   * @param options of the group as it was saved
   * @param where the group, for messages
   * @throws RefusedException if a hyper-parameter is missing, or means what torch.optim has not
   */
  Map<String, PyObject> complete(Map<String, PyObject> options, String where) {
    Map<String, PyObject> all = new LinkedHashMap<>(options);
    for (String name : required) {
      if (!all.containsKey(name)) {
        throw new RefusedException(
            where,
            "has no '%s', which the optimizer needs: it has %s.".formatted(name, options.keySet()));
      }
    }
    defaults.forEach(all::putIfAbsent);
    all.putIfAbsent("initial_lr", all.get("lr"));
    PyObject correction = all.remove("bias_correction");
    if (correction != null && !isTrue(correction)) {
      throw new RefusedException(
          where,
          "bias_correction is off, which torch.optim's Adam has not. Its updates would be others.");
    }
    return all;
  }

  private static boolean isTrue(PyObject value) {
    return value == PyBool.TRUE
        || (value instanceof PyInt number && number.value().signum() != 0)
        || (value instanceof PyFloat f && f.value() != 0);
  }
}
