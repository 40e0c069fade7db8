package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Optional;
import java.util.TreeSet;

/** Whether boxes hold each element of a tensor once. */
final class Tiling {
  private Tiling() {}

  /**
   * What is wrong, if something is.
   *
   * @param shape the tensor's elements per dimension
   * @param chunks boxes that hold at least one element
   */
  static Optional<String> defect(List<Long> shape, List<Chunk> chunks) {
    for (Chunk chunk : chunks) {
      if (!fits(shape, chunk)) {
        return Optional.of(
            "the chunk at %s of sizes %s is not within it"
                .formatted(chunk.offsets(), chunk.sizes()));
      }
    }
    Optional<String> overlap = overlap(shape, chunks);
    if (overlap.isPresent()) {
      return overlap;
    }
    // No chunk overlaps another, so that what they hold is the sum.
    long held = 0;
    for (Chunk chunk : chunks) {
      held += chunk.elements();
    }
    return held == Chunk.elements(shape)
        ? Optional.empty()
        : Optional.of(
            "%d elements are missing, the first at %s"
                .formatted(Chunk.elements(shape) - held, hole(shape, chunks, 0)));
  }

  private static boolean fits(List<Long> shape, Chunk chunk) {
    if (chunk.offsets().size() != shape.size() || chunk.sizes().size() != shape.size()) {
      return false;
    }
    for (int d = 0; d < shape.size(); d++) {
      long offset = chunk.offsets().get(d);
      if (offset > shape.get(d) || chunk.sizes().get(d) > shape.get(d) - offset) {
        return false;
      }
    }
    return true;
  }

  /** Sweeps along the first dimension: only chunks that share a row are compared. */
  private static Optional<String> overlap(List<Long> shape, List<Chunk> chunks) {
    List<Chunk> sorted = new ArrayList<>(chunks);
    sorted.sort(Comparator.comparingLong(chunk -> begin(chunk, 0)));
    List<Chunk> open = new ArrayList<>();
    for (Chunk chunk : sorted) {
      open.removeIf(other -> !shape.isEmpty() && end(other, 0) <= begin(chunk, 0));
      for (Chunk other : open) {
        if (overlaps(shape.size(), chunk, other)) {
          return Optional.of(
              "the chunks at %s and at %s overlap".formatted(other.offsets(), chunk.offsets()));
        }
      }
      open.add(chunk);
    }
    return Optional.empty();
  }

  private static boolean overlaps(int dimensions, Chunk a, Chunk b) {
    for (int d = 0; d < dimensions; d++) {
      if (end(a, d) <= begin(b, d) || end(b, d) <= begin(a, d)) {
        return false;
      }
    }
    return true;
  }

  private static long begin(Chunk chunk, int dimension) {
    return dimension < chunk.offsets().size() ? chunk.offsets().get(dimension) : 0;
  }

  private static long end(Chunk chunk, int dimension) {
    return chunk.offsets().get(dimension) + chunk.sizes().get(dimension);
  }

  /** The first element in C order that no chunk holds, from {@code dimension} on; null if none. */
  private static List<Long> hole(List<Long> shape, List<Chunk> chunks, int dimension) {
    if (dimension == shape.size()) {
      return chunks.isEmpty() ? List.of() : null;
    }
    // Which chunks hold a row changes at their begins and ends only.
    TreeSet<Long> rows = new TreeSet<>();
    rows.add(0L);
    for (Chunk chunk : chunks) {
      rows.add(begin(chunk, dimension));
      rows.add(end(chunk, dimension));
    }
    rows.remove(shape.get(dimension));
    for (long row : rows) {
      List<Chunk> holding =
          chunks.stream()
              .filter(chunk -> begin(chunk, dimension) <= row && row < end(chunk, dimension))
              .toList();
      List<Long> rest = hole(shape, holding, dimension + 1);
      if (rest != null) {
        List<Long> found = new ArrayList<>(List.of(row));
        found.addAll(rest);
        return found;
      }
    }
    return null;
  }
}
