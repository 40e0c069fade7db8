package io.github.reshard.checkpoint.template;

import io.github.reshard.checkpoint.plan.Conversion;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.state.Address;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** What a template's reshard carries over, with other bytes in the place of some of it. */
public final class TemplateCarried {
  /**
   * Bytes that take the place of some of the template's.
   *
   * @param from the first of these, in the template
   * @param bytes how many
   * @param source where they come from
   * @param conversion how each element is cast, or null
   */
  private record Replaced(Address from, long bytes, Address source, Conversion conversion) {
    long end() {
      return from.offset() + bytes;
    }
  }

  private record FileEntry(int file, int entry) {
    static FileEntry of(Address address) {
      return new FileEntry(address.file(), address.entry());
    }
  }

  private final Map<FileEntry, List<Replaced>> replaced = new HashMap<>();

  /**
   * Lets bytes come from elsewhere.
   *
   * @param from the first of the template's bytes
   * @param bytes how many of the template's
   * @param source where the first one comes from
   * @param conversion how each element is cast, or null
   */
  public void replace(Address from, long bytes, Address source, Conversion conversion) {
    replaced
        .computeIfAbsent(FileEntry.of(from), any -> new ArrayList<>())
        .add(new Replaced(from, bytes, source, conversion));
  }

  /** The slices that make the same target bytes, those that were replaced from their new place. */
  public List<SliceCopy> of(List<SliceCopy> carried) {
    List<SliceCopy> slices = new ArrayList<>();
    for (SliceCopy slice : carried) {
      List<Replaced> within =
          slice.source() == null
              ? List.of()
              : replaced.getOrDefault(FileEntry.of(slice.source()), List.of());
      if (within.isEmpty()) {
        slices.add(slice);
      } else {
        cut(slice, within, slices);
      }
    }
    return slices;
  }

  private static void cut(SliceCopy slice, List<Replaced> all, List<SliceCopy> out) {
    long begin = slice.source().offset();
    long end = begin + slice.bytes();
    List<Replaced> within =
        all.stream()
            .filter(r -> r.from().offset() < end && r.end() > begin)
            .sorted(Comparator.comparingLong(r -> r.from().offset()))
            .toList();
    long at = begin;
    for (Replaced r : within) {
      if (r.from().offset() < at || r.end() > end) {
        throw new IllegalStateException(
            "bytes %d to %d of the template are replaced and carried in part"
                .formatted(r.from().offset(), r.end()));
      }
      keep(slice, at - begin, r.from().offset() - at, out);
      out.add(
          SliceCopy.derived(
              r.source(),
              slice.target().plus(r.from().offset() - begin),
              r.bytes(),
              null,
              r.conversion()));
      at = r.end();
    }
    keep(slice, at - begin, end - at, out);
  }

  private static void keep(SliceCopy slice, long from, long bytes, List<SliceCopy> out) {
    if (bytes > 0) {
      out.add(
          SliceCopy.of(
              slice.source().plus(from), slice.target().plus(from), bytes, slice.proves()));
    }
  }
}
