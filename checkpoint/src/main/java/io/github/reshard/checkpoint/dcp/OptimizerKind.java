package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * How {@code torch.optim} names what an optimizer keeps, told by what it keeps (PyTorch 2.15, the
 * {@code defaults} of each class): a state dict that is loaded must have every option that the
 * class has, whoever saved it. An optimizer of another library is {@link #OTHER}, and what it keeps
 * stays as it is.
 *
 * @param states that each of its parameters has
 * @param furtherStates that it may have
 * @param scalars that each of its parameters has beside {@code step}
 * @param counts whether each parameter has a {@code step}
 * @param required hyper-parameters without which it is another one
 * @param defaults of options that a version or another implementation does not save
 */
public record OptimizerKind(
    Set<String> states,
    Set<String> furtherStates,
    Set<String> scalars,
    boolean counts,
    Set<String> required,
    Map<String, PyObject> defaults) {
  private static final String LEARNING_RATE = "lr";
  private static final String INITIAL_LEARNING_RATE = "initial_lr";
  private static final String BIAS_CORRECTION = "bias_correction";
  private static final String DECOUPLED = "decoupled_weight_decay";

  /** How a step is computed, and not what: these differ between two runs of one training. */
  private static final Map<String, PyObject> SWITCHES =
      options(
          "foreach",
          PyNone.NONE,
          "fused",
          PyNone.NONE,
          "capturable",
          PyBool.FALSE,
          "differentiable",
          PyBool.FALSE);

  /** An optimizer of another library. */
  public static final OptimizerKind OTHER =
      new OptimizerKind(Set.of(), Set.of(), Set.of(), false, Set.of(), SWITCHES);

  private static final Set<String> OF_SGD = Set.of(LEARNING_RATE, "momentum", "weight_decay");
  private static final Set<String> OF_ADAM = Set.of(LEARNING_RATE, "betas", "eps", "weight_decay");
  private static final Map<String, PyObject> DEFAULTS_OF_SGD =
      options("dampening", PyInt.of(0), "nesterov", PyBool.FALSE);

  private static final List<OptimizerKind> OF_TORCH =
      List.of(
          // NAdam
          counting(
              Set.of("exp_avg", "exp_avg_sq"),
              Set.of(),
              Set.of("mu_product"),
              Set.of(LEARNING_RATE, "betas", "eps", "weight_decay", "momentum_decay"),
              options(DECOUPLED, PyBool.FALSE)),
          // Adam, AdamW and RAdam, and DeepSpeed's of these names. AdamW sets its flag to True
          // whatever is loaded, and Adam must not become AdamW.
          counting(
              Set.of("exp_avg", "exp_avg_sq"),
              Set.of("max_exp_avg_sq"),
              Set.of(),
              OF_ADAM,
              options("amsgrad", PyBool.FALSE, DECOUPLED, PyBool.FALSE)),
          // Adamax
          counting(Set.of("exp_avg", "exp_inf"), Set.of(), Set.of(), OF_ADAM, Map.of()),
          // Adagrad
          counting(
              Set.of("sum"),
              Set.of(),
              Set.of(),
              Set.of(LEARNING_RATE, "eps", "weight_decay"),
              options("lr_decay", PyInt.of(0), "initial_accumulator_value", PyInt.of(0))),
          // RMSprop
          counting(
              Set.of("square_avg"),
              Set.of("momentum_buffer", "grad_avg"),
              Set.of(),
              Set.of(LEARNING_RATE, "alpha", "eps", "momentum", "weight_decay"),
              options("centered", PyBool.FALSE)),
          // Adadelta
          counting(
              Set.of("square_avg", "acc_delta"),
              Set.of(),
              Set.of(),
              Set.of(LEARNING_RATE, "rho", "eps", "weight_decay"),
              Map.of()),
          // ASGD
          counting(
              Set.of("ax"),
              Set.of(),
              Set.of("eta", "mu"),
              Set.of(LEARNING_RATE, "lambd", "alpha", "t0", "weight_decay"),
              Map.of()),
          // Rprop
          counting(
              Set.of("prev", "step_size"),
              Set.of(),
              Set.of(),
              Set.of(LEARNING_RATE, "etas", "step_sizes"),
              Map.of()),
          // SGD with momentum, and without
          ofTorch(Set.of("momentum_buffer"), Set.of(), Set.of(), false, OF_SGD, DEFAULTS_OF_SGD),
          ofTorch(Set.of(), Set.of(), Set.of(), false, OF_SGD, DEFAULTS_OF_SGD));

  private static OptimizerKind counting(
      Set<String> states,
      Set<String> furtherStates,
      Set<String> scalars,
      Set<String> required,
      Map<String, PyObject> defaults) {
    return ofTorch(states, furtherStates, scalars, true, required, defaults);
  }

  private static OptimizerKind ofTorch(
      Set<String> states,
      Set<String> furtherStates,
      Set<String> scalars,
      boolean counts,
      Set<String> required,
      Map<String, PyObject> defaults) {
    Map<String, PyObject> all = new LinkedHashMap<>(defaults);
    all.put("maximize", PyBool.FALSE);
    all.putAll(SWITCHES);
    return new OptimizerKind(states, furtherStates, scalars, counts, required, all);
  }

  private static Map<String, PyObject> options(Object... options) {
    Map<String, PyObject> map = new LinkedHashMap<>();
    for (int o = 0; o < options.length; o += 2) {
      map.put((String) options[o], (PyObject) options[o + 1]);
    }
    return map;
  }

  /**
   * Whose these are.
   *
   * @param states that are one number for each element
   * @param scalars that a parameter has once
   * @param options its hyper-parameters; empty if they were not saved
   */
  public static OptimizerKind of(Set<String> states, Set<String> scalars, Set<String> options) {
    for (OptimizerKind kind : OF_TORCH) {
      Set<String> further = new HashSet<>(states);
      further.removeAll(kind.states);
      further.removeAll(kind.furtherStates);
      if (further.isEmpty()
          && states.containsAll(kind.states)
          && scalars.containsAll(kind.scalars)
          && (options.isEmpty() || options.containsAll(kind.required))) {
        return kind;
      }
    }
    return OTHER;
  }

  /** Whether {@code torch.optim} has it. */
  public boolean isOfTorch() {
    return !required.isEmpty();
  }

  /**
   * Every option that some loader asks for: what is missing in a loaded state dict is an error,
   * what is there beside it is not looked at.
   *
   * @param options of the group as it was saved; if they were not, none are made up
   * @param where the group, for messages
   * @throws RefusedException if one means what torch.optim has not
   */
  Map<String, PyObject> complete(Map<String, PyObject> options, String where) {
    Map<String, PyObject> all = new LinkedHashMap<>(options);
    if (options.isEmpty()) {
      return all;
    }
    defaults.forEach(all::putIfAbsent);
    if (all.containsKey(LEARNING_RATE)) {
      all.putIfAbsent(INITIAL_LEARNING_RATE, all.get(LEARNING_RATE));
    }
    PyObject correction = isOfTorch() ? all.remove(BIAS_CORRECTION) : null;
    if (correction != null && !isTrue(correction)) {
      throw new RefusedException(
          where,
          "bias_correction is off, which torch.optim's Adam has not. Its updates would be others.");
    }
    return all;
  }

  /** Whether two runs of one training may have other values of {@code option}, or none. */
  public static boolean isOfImplementation(String option) {
    return SWITCHES.containsKey(option)
        || option.equals(DECOUPLED)
        || option.equals(BIAS_CORRECTION)
        || option.equals(INITIAL_LEARNING_RATE);
  }

  /**
   * Whether {@code option} changes what a step of some optimizer of {@code torch.optim} does, and
   * is more than leaving it out.
   *
   * @param value of it
   */
  public static boolean isHyperParameter(String option, PyObject value) {
    if (isOfImplementation(option)) {
      return false;
    }
    if (OF_TORCH.stream().anyMatch(kind -> kind.required.contains(option))) {
      return true;
    }
    return OF_TORCH.stream().anyMatch(kind -> kind.defaults.containsKey(option)) && isTrue(value);
  }

  private static boolean isTrue(PyObject value) {
    return value == PyBool.TRUE
        || (value instanceof PyInt number && number.value().signum() != 0)
        || (value instanceof PyFloat f && f.value() != 0);
  }
}
