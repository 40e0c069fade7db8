package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.safetensors.JsonText;
import io.github.reshard.checkpoint.safetensors.SafetensorsLayout.Tensor;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Which tensors go into which file: tensors in the order of the model fill one file after the
 * other, and one that is larger than a file has a file of its own (huggingface_hub 0.36.2,
 * serialization/_base.py, {@code split_state_dict_into_shards_factory}).
 *
 * @param files the tensors of each file by its name
 */
record WeightShards(Map<String, List<Tensor>> files) {
  private static final String ENDING = ".safetensors";

  /**
   * Splits a model.
   *
   * @param stem what the names of the files begin with, such as {@code model}
   * @param tensors in the order of the model
   * @param mostBytes bytes of tensors that a file holds at most, unless it holds only one
   */
  static WeightShards of(String stem, List<Tensor> tensors, long mostBytes) {
    List<List<Tensor>> shards = new ArrayList<>();
    List<Tensor> current = new ArrayList<>();
    long bytes = 0;
    for (Tensor tensor : tensors) {
      if (tensor.bytes() > mostBytes) {
        shards.add(List.of(tensor));
        continue;
      }
      if (bytes + tensor.bytes() > mostBytes) {
        shards.add(current);
        current = new ArrayList<>();
        bytes = 0;
      }
      current.add(tensor);
      bytes += tensor.bytes();
    }
    if (!current.isEmpty() || shards.isEmpty()) {
      shards.add(current);
    }
    Map<String, List<Tensor>> files = new LinkedHashMap<>();
    for (int s = 0; s < shards.size(); s++) {
      String number = shards.size() == 1 ? "" : "-%05d-of-%05d".formatted(s + 1, shards.size());
      files.put(stem + number + ENDING, shards.get(s));
    }
    return new WeightShards(files);
  }

  /** Whether there are several, so that an index must say which tensor is where. */
  boolean needIndex() {
    return files.size() > 1;
  }

  /** The index as {@code save_pretrained} writes it, without the count of parameters. */
  byte[] index() {
    Map<String, Object> map = new LinkedHashMap<>();
    long bytes = 0;
    for (Map.Entry<String, List<Tensor>> file : files.entrySet()) {
      for (Tensor tensor : file.getValue()) {
        map.put(tensor.name(), file.getKey());
        bytes += tensor.bytes();
      }
    }
    Map<String, Object> index = Map.of("metadata", Map.of("total_size", bytes), "weight_map", map);
    return (JsonText.indented(index) + "\n").getBytes(StandardCharsets.UTF_8);
  }
}
