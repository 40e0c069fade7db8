package io.github.reshard.checkpoint.openstate;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.ComposedTorchFile.Piece;
import io.github.reshard.checkpoint.json.Json;
import io.github.reshard.checkpoint.safetensors.SafetensorsFile;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** The tensors of an open state, which lie in safetensors files, by name. */
final class OpenTensors {
  private static final String ENDING = ".safetensors";
  private static final String INDEX = ".safetensors.index.json";
  private static final long MOST_JSON_BYTES = 1L << 28;

  private final String directory;
  private final Map<String, Tensor> byName = new HashMap<>();

  private OpenTensors(String directory) {
    this.directory = directory;
  }

  /**
   * A tensor.
   *
   * @param file where it is
   * @param tensor which of its bytes
   */
  record Tensor(FileStat file, SafetensorsFile.Tensor tensor) {
    DType dtype() {
      return tensor.dtype();
    }

    List<Long> shape() {
      return tensor.shape();
    }

    /**
     * Its bytes.
     *
     * @param crc32 what recorded them, if anything did
     */
    Piece piece(Optional<Integer> crc32) {
      return tensor.bytes() == 0
          ? Piece.zeros(0)
          : crc32.isPresent()
              ? Piece.of(file, tensor.offset(), tensor.bytes(), crc32.get())
              : Piece.unproven(file, tensor.offset(), tensor.bytes());
    }
  }

  /**
   * Reads the headers of the files of weights and states.
   *
   * @throws RefusedException if a file breaks a rule of safetensors, an index names what is not
   *     there, or files hold what their index does not name
   */
  static OpenTensors read(SourceStore store, String directory, Map<String, FileStat> files)
      throws IOException {
    OpenTensors tensors = new OpenTensors(directory);
    tensors.add(store, files, OpenFormat.MODEL_STEM);
    tensors.add(store, files, OpenFormat.OPTIMIZER_STEM);
    return tensors;
  }

  private void add(SourceStore store, Map<String, FileStat> files, String stem) throws IOException {
    FileStat whole = files.get(stem + ENDING);
    FileStat index = files.get(stem + INDEX);
    if (whole != null && index != null) {
      throw new RefusedException(
          directory,
          "has both %s and %s. Two exports are mixed here; keep the files of one."
              .formatted(whole.name(), index.name()));
    }
    if (index != null) {
      addIndexed(store, files, index);
    } else if (whole != null) {
      header(store, whole).tensors().forEach((name, tensor) -> put(name, whole, tensor));
    } else {
      throw new RefusedException(
          directory,
          "expected %s%s or %s%s beside %s, found neither. The export is not whole."
              .formatted(stem, ENDING, stem, INDEX, OpenFormat.JSON));
    }
  }

  private void addIndexed(SourceStore store, Map<String, FileStat> files, FileStat index)
      throws IOException {
    Map<?, ?> map =
        object(index.path(), object(index.path(), json(store, index)).get("weight_map"));
    Map<String, List<String>> named = new LinkedHashMap<>();
    map.forEach(
        (name, file) -> {
          if (!(file instanceof String of)) {
            throw new RefusedException(
                index.path() + ", weight_map." + name, "expected the name of a file.");
          }
          named.computeIfAbsent(of, f -> new ArrayList<>()).add((String) name);
        });
    for (Map.Entry<String, List<String>> of : named.entrySet()) {
      FileStat stat = files.get(of.getKey());
      if (stat == null || !of.getKey().endsWith(ENDING)) {
        throw new RefusedException(
            index.path(),
            "names the file '%s', and no such file lies beside it. The export is not whole."
                .formatted(of.getKey()));
      }
      Map<String, SafetensorsFile.Tensor> held = new LinkedHashMap<>(header(store, stat).tensors());
      for (String name : of.getValue()) {
        SafetensorsFile.Tensor tensor = held.remove(name);
        if (tensor == null) {
          throw new RefusedException(
              index.path(),
              "says that '%s' is in %s, which does not hold it. They are of different exports."
                  .formatted(name, of.getKey()));
        }
        put(name, stat, tensor);
      }
      if (!held.isEmpty()) {
        throw new RefusedException(
            stat.path(),
            "holds '%s', which %s does not name for it. They are of different exports."
                .formatted(held.keySet().iterator().next(), index.name()));
      }
    }
  }

  private void put(String name, FileStat file, SafetensorsFile.Tensor tensor) {
    Tensor other = byName.put(name, new Tensor(file, tensor));
    if (other != null) {
      throw new RefusedException(
          file.path(),
          "holds '%s', and so does %s. Names of weights and states have to differ."
              .formatted(name, other.file().name()));
    }
  }

  private static SafetensorsFile header(SourceStore store, FileStat stat) throws IOException {
    try (RangedFile open = store.open(stat)) {
      return SafetensorsFile.read(open);
    }
  }

  /** What a JSON file says. */
  static Object json(SourceStore store, FileStat stat) throws IOException {
    if (stat.bytes() > MOST_JSON_BYTES) {
      throw new RefusedException(
          stat.path(),
          "has %d bytes, more than the %d that are read of a JSON file."
              .formatted(stat.bytes(), MOST_JSON_BYTES));
    }
    return Json.parse(stat.path(), store.read(stat, 0, stat.bytes()));
  }

  static Map<?, ?> object(String where, Object json) {
    if (json instanceof Map<?, ?> map) {
      return map;
    }
    throw new RefusedException(where, "expected a JSON object.");
  }

  /**
   * The tensor of a name.
   *
   * @param where it is named, for messages
   * @param shape that it must have, if that is known
   */
  Tensor get(String where, String name, Optional<List<Long>> shape) {
    Tensor tensor = byName.get(name);
    if (tensor == null) {
      throw new RefusedException(
          where, "names the tensor '%s', which no safetensors file holds.".formatted(name));
    }
    if (shape.isPresent() && !shape.get().equals(tensor.shape())) {
      throw new RefusedException(
          tensor.file().path() + ", " + name,
          "has shape %s, the weight of its parameter has %s."
              .formatted(tensor.shape(), shape.get()));
    }
    return tensor;
  }
}
