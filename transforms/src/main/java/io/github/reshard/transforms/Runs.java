package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCrc;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BiConsumer;

/** Checksums of runs of bytes, put together where one run continues another of the same key. */
final class Runs<K> {
  private final Map<K, List<SliceCrc>> runs = new LinkedHashMap<>();

  void add(K key, SliceCrc crc) {
    runs.computeIfAbsent(key, k -> new ArrayList<>()).add(crc);
  }

  void emit(BiConsumer<K, SliceCrc> out) {
    runs.forEach((key, list) -> SliceCrc.merged(list).forEach(run -> out.accept(key, run)));
  }
}
