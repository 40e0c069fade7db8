package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.torch.Crc32Combine;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BiConsumer;

/** Checksums of runs of bytes, put together where one run continues another of the same key. */
final class Runs<K> {
  private final Map<K, List<SliceCrc>> runs = new LinkedHashMap<>();

  void add(K key, long offset, long bytes, int crc32) {
    runs.computeIfAbsent(key, k -> new ArrayList<>()).add(new SliceCrc(offset, bytes, crc32));
  }

  void emit(BiConsumer<K, SliceCrc> out) {
    runs.forEach((key, list) -> merge(list).forEach(run -> out.accept(key, run)));
  }

  private static List<SliceCrc> merge(List<SliceCrc> list) {
    list.sort(Comparator.comparingLong(SliceCrc::offset).thenComparingLong(SliceCrc::bytes));
    List<SliceCrc> merged = new ArrayList<>();
    SliceCrc current = null;
    for (SliceCrc next : list) {
      if (current != null && current.offset() + current.bytes() == next.offset()) {
        current =
            new SliceCrc(
                current.offset(),
                current.bytes() + next.bytes(),
                Crc32Combine.combine(current.crc32(), next.crc32(), next.bytes()));
      } else {
        if (current != null) {
          merged.add(current);
        }
        current = next;
      }
    }
    if (current != null) {
      merged.add(current);
    }
    return merged;
  }
}
