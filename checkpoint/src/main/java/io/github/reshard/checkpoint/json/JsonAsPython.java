package io.github.reshard.checkpoint.json;

import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import java.math.BigDecimal;
import java.util.List;
import java.util.Map;

/** What Python's {@code json.load} makes of a JSON value. */
public final class JsonAsPython {
  private JsonAsPython() {}

  /**
   * The Python object.
   *
   * @param json as {@code Json.parse} gives it
   */
  public static PyObject of(Object json) {
    if (json instanceof Map<?, ?> map) {
      PyDict dict = new PyDict();
      map.forEach((key, value) -> dict.entries().add(new PyStr((String) key), of(value)));
      return dict;
    }
    if (json instanceof List<?> list) {
      PyList items = new PyList();
      list.forEach(item -> items.items().add(of(item)));
      return items;
    }
    if (json instanceof String text) {
      return new PyStr(text);
    }
    if (json instanceof Boolean truth) {
      return truth ? PyBool.TRUE : PyBool.FALSE;
    }
    if (json instanceof BigDecimal number) {
      // 1e8 has no fraction either, but json.load makes it a float; whoever reads it takes both.
      return number.scale() == 0
          ? PyInt.of(number.toBigInteger())
          : new PyFloat(number.doubleValue());
    }
    return PyNone.NONE;
  }
}
