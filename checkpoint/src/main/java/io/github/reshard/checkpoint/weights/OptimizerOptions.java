package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.SavedOptimizer;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import java.io.IOException;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalDouble;

/** The param groups of a checkpoint as JSON has them. */
final class OptimizerOptions {
  private OptimizerOptions() {}

  /**
   * For each param group {@code options}, its hyper-parameters, and {@code step}, how many steps
   * its optimizer has made, or null where it counts none.
   *
   * @throws RefusedException if they are not saved, or JSON has no such value
   */
  static List<Map<String, Object>> of(TrainingState state) throws IOException {
    List<Map<String, Object>> groups = new ArrayList<>();
    for (SavedOptimizer.Group group : SavedOptimizer.of(state).groups()) {
      if (group.options().isEmpty()) {
        throw new RefusedException(
            group.where(),
            "it was saved with elastic_checkpoint, which leaves the hyper-parameters of the param"
                + " groups out, and other formats need them. Load it once without"
                + " elastic_checkpoint and save it again.");
      }
      Map<String, Object> options = new LinkedHashMap<>();
      group
          .options()
          .forEach((key, value) -> options.put(key, json(group.where() + "." + key, value)));
      Map<String, Object> json = new LinkedHashMap<>();
      json.put("options", options);
      OptionalDouble step = group.step();
      json.put("step", step.isPresent() ? (Object) whole(step.getAsDouble()) : null);
      groups.add(json);
    }
    return groups;
  }

  private static BigDecimal whole(double number) {
    return new BigDecimal(number).stripTrailingZeros().setScale(0);
  }

  private static Object json(String where, PyObject value) {
    if (value == PyNone.NONE) {
      return null;
    }
    if (value instanceof PyBool) {
      return value == PyBool.TRUE;
    }
    if (value instanceof PyInt number) {
      return new BigDecimal(number.value());
    }
    if (value instanceof PyFloat number && Double.isFinite(number.value())) {
      // The shortest text that is this number, as Python writes it, but never an integer's.
      BigDecimal decimal = new BigDecimal(Double.toString(number.value()));
      return decimal.scale() <= 0 ? decimal.setScale(1) : decimal;
    }
    if (value instanceof PyStr text) {
      return text.value();
    }
    List<PyObject> items =
        value instanceof PyTuple tuple
            ? tuple.items()
            : value instanceof PyList list ? list.items() : null;
    if (items == null) {
      throw new RefusedException(where, "JSON has no such value; leave --optimizer out.");
    }
    List<Object> list = new ArrayList<>();
    items.forEach(item -> list.add(json(where, item)));
    return list;
  }
}
