package io.github.reshard.checkpoint.template;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * A template's files without the entries that nothing is taken from: what they hold says nothing of
 * the output, and to prove it would mean to read all of it.
 */
public final class OnlyUsed {
  private OnlyUsed() {}

  private record Of(int file, int entry) {}

  /**
   * The plan without them.
   *
   * @param files how many sources, the first ones, are the template's
   */
  public static ReshardPlan of(ReshardPlan plan, int files) {
    Set<Of> used = new HashSet<>();
    for (SliceCopy slice : plan.carried()) {
      if (slice.source() != null && slice.source().file() < files) {
        used.add(new Of(slice.source().file(), slice.source().entry()));
      }
    }
    List<SourceFile> sources = new ArrayList<>();
    Map<Of, Integer> numbers = new HashMap<>();
    for (int f = 0; f < plan.sources().size(); f++) {
      SourceFile file = plan.sources().get(f);
      if (f >= files) {
        sources.add(file);
        continue;
      }
      List<TorchFile.Entry> entries = new ArrayList<>();
      for (int e = 0; e < file.entries().size(); e++) {
        if (used.contains(new Of(f, e))) {
          numbers.put(new Of(f, e), entries.size());
          entries.add(file.entries().get(e));
        }
      }
      sources.add(new SourceFile(file.stat(), entries, file.hasCrcs()));
    }
    List<SliceCopy> carried = new ArrayList<>();
    for (SliceCopy slice : plan.carried()) {
      Address from = slice.source();
      Integer number = from == null ? null : numbers.get(new Of(from.file(), from.entry()));
      carried.add(
          number == null ? slice : slice.from(new Address(from.file(), number, from.offset())));
    }
    return plan.with(sources, carried);
  }
}
