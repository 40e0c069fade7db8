package io.github.reshard.testing;

import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.stream.Stream;

/** A checkpoint of the same run with other numbers: a template from which nothing may be taken. */
public final class DisturbedCheckpoint {
  private static final Set<String> COUNTERS =
      Set.of("global_steps", "global_samples", "lr", "weight_decay", "last_epoch", "_step_count");

  private DisturbedCheckpoint() {}

  /**
   * A copy of the case in {@code template} with zeros in every tensor, padding as it is, and other
   * numbers.
   */
  public static Path of(GoldenCase golden, Path template) throws IOException {
    Scratch.copyOf(golden.source(), template);
    try (Stream<Path> files = Files.walk(template)) {
      for (Path file : files.filter(p -> p.toString().endsWith("_states.pt")).toList()) {
        Scratch.rewrite(
            file, DisturbedCheckpoint::disturb, (key, bytes) -> Arrays.fill(bytes, (byte) 0));
      }
    } catch (UncheckedIOException e) {
      throw e.getCause();
    }
    return template;
  }

  private static void disturb(PyObject node) {
    if (node instanceof PyDict dict) {
      disturb(dict.entries());
    } else if (node instanceof PyInstance made) {
      disturb(made.dictItems());
    } else if (node instanceof PyList list) {
      list.items().forEach(DisturbedCheckpoint::disturb);
    } else if (node instanceof PyTuple tuple) {
      tuple.items().forEach(DisturbedCheckpoint::disturb);
    }
  }

  private static void disturb(PyEntries entries) {
    for (PyEntries.Entry entry : List.copyOf(entries.list())) {
      if (entry.key() instanceof PyStr key
          && COUNTERS.contains(key.value())
          && entry.value() instanceof PyInt number) {
        entries.replace(key.value(), PyInt.of(number.value().longValue() + 100));
      } else if (entry.key() instanceof PyStr key
          && COUNTERS.contains(key.value())
          && entry.value() instanceof PyFloat number) {
        entries.replace(key.value(), new PyFloat(number.value() + 100));
      } else if (!(entry.key() instanceof PyStr key && key.value().equals("ds_config"))) {
        disturb(entry.value());
      }
    }
  }
}
