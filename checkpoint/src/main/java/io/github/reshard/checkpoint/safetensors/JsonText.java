package io.github.reshard.checkpoint.safetensors;

import io.github.reshard.checkpoint.json.Json;
import java.math.BigDecimal;
import java.util.Arrays;
import java.util.Collection;
import java.util.Comparator;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * Writes JSON, byte for byte as the programs do whose files are written: {@link #of} as Rust's
 * serde_json does, {@link #indented} as Python's {@code json.dumps(..., indent=2, sort_keys=True)}.
 * Values are those that {@link Json} reads, and whole numbers.
 */
public final class JsonText {
  private final boolean python;
  private final StringBuilder out = new StringBuilder();

  private JsonText(boolean python) {
    this.python = python;
  }

  /** On one line and without a space; only what must be is escaped. */
  public static String of(Object value) {
    JsonText text = new JsonText(false);
    text.write(value, 0);
    return text.out.toString();
  }

  /** Each value on its line, keys sorted, everything beyond ASCII escaped. */
  public static String indented(Object value) {
    JsonText text = new JsonText(true);
    text.write(value, 0);
    return text.out.toString();
  }

  private void write(Object value, int depth) {
    if (value instanceof String string) {
      write(string);
    } else if (value instanceof Map<?, ?> map) {
      write(map, depth);
    } else if (value instanceof List<?> list) {
      writeAll('[', list, ']', depth, item -> write(item, depth + 1));
    } else if (value instanceof BigDecimal number) {
      out.append(number);
    } else if (value == null
        || value instanceof Boolean
        || value instanceof Long
        || value instanceof Integer) {
      out.append(value);
    } else {
      throw new IllegalArgumentException("JSON has no " + value.getClass());
    }
  }

  private void write(Map<?, ?> map, int depth) {
    writeAll(
        '{',
        (python ? sorted(map) : map).entrySet(),
        '}',
        depth,
        entry -> {
          write((String) entry.getKey());
          out.append(python ? ": " : ":");
          write(entry.getValue(), depth + 1);
        });
  }

  /** Python compares texts by code point, Java by UTF-16. */
  private static Map<String, Object> sorted(Map<?, ?> map) {
    Map<String, Object> sorted =
        new TreeMap<>(
            Comparator.comparing((String key) -> key.codePoints().toArray(), Arrays::compare));
    map.forEach((key, value) -> sorted.put((String) key, value));
    return sorted;
  }

  private interface Item<T> {
    void write(T item);
  }

  private <T> void writeAll(char begin, Collection<T> items, char end, int depth, Item<T> each) {
    out.append(begin);
    for (Iterator<T> item = items.iterator(); item.hasNext(); ) {
      newLine(depth + 1);
      each.write(item.next());
      out.append(item.hasNext() ? "," : "");
    }
    if (!items.isEmpty()) {
      newLine(depth);
    }
    out.append(end);
  }

  private void newLine(int depth) {
    if (python) {
      out.append('\n').append("  ".repeat(depth));
    }
  }

  private void write(String string) {
    out.append('"');
    for (int i = 0; i < string.length(); i++) {
      char c = string.charAt(i);
      switch (c) {
        case '"' -> out.append("\\\"");
        case '\\' -> out.append("\\\\");
        case '\b' -> out.append("\\b");
        case '\f' -> out.append("\\f");
        case '\n' -> out.append("\\n");
        case '\r' -> out.append("\\r");
        case '\t' -> out.append("\\t");
        default -> {
          if (c < ' ' || (python && c > '~')) {
            out.append("\\u%04x".formatted((int) c));
          } else {
            out.append(c);
          }
        }
      }
    }
    out.append('"');
  }
}
