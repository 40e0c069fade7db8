package io.github.reshard.checkpoint.zero;

import io.github.reshard.checkpoint.plan.Address;
import io.github.reshard.checkpoint.plan.PartitionedModel;
import io.github.reshard.checkpoint.plan.Recipe;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.IntStream;

/** Collects the lists of a {@link ReshardPlan} while it is made. */
final class PlanBuilder {
  /** The entry of bytes that belong to no zip entry's payload. */
  static final int NO_ENTRY = -1;

  final List<SourceFile> sources = new ArrayList<>();
  final List<TargetFile> targets = new ArrayList<>();
  final List<PartitionedModel> models = new ArrayList<>();
  final List<SliceCopy> carried = new ArrayList<>();
  final List<ReshardPlan.Padding> padding = new ArrayList<>();
  final List<String> notes = new ArrayList<>();
  private final Set<Long> proven = new HashSet<>();

  /** Registers a torch file of the source; its index. */
  int addSource(FileStat stat, TorchFile file) {
    sources.add(new SourceFile(stat, file.entries(), file.hasCrcs()));
    return sources.size() - 1;
  }

  /** A file that is not looked into, copied to {@code path}. */
  void copyAsIs(String path, FileStat stat) {
    sources.add(new SourceFile(stat, List.of(), false));
    int source = sources.size() - 1;
    int target = addWhole(path, source, stat.bytes());
    carry(new Address(source, NO_ENTRY, 0), new Address(target, 0, 0), stat.bytes());
  }

  /** A torch file that is copied to {@code path}; the bytes of its entries are proven. */
  void copyAsIs(String path, int source) {
    SourceFile file = sources.get(source);
    int target = addWhole(path, source, file.stat().bytes());
    List<Integer> byOffset =
        IntStream.range(0, file.entries().size())
            .boxed()
            .sorted(Comparator.comparingLong(e -> file.entries().get(e).payloadOffset()))
            .toList();
    long at = 0;
    for (int e : byOffset) {
      TorchFile.Entry entry = file.entries().get(e);
      carry(
          new Address(source, NO_ENTRY, at),
          new Address(target, 0, at),
          entry.payloadOffset() - at);
      carry(
          new Address(source, e, entry.payloadOffset()),
          new Address(target, 0, entry.payloadOffset()),
          entry.bytes());
      at = entry.payloadOffset() + entry.bytes();
    }
    carry(new Address(source, NO_ENTRY, at), new Address(target, 0, at), file.stat().bytes() - at);
  }

  private int addWhole(String path, int source, long bytes) {
    targets.add(
        new TargetFile(
            path, bytes, new Recipe.AsIs(source), List.of(new TargetFile.Entry("", 0, bytes))));
    return targets.size() - 1;
  }

  /** Registers a file that is written anew; its index. */
  int addTarget(
      String path, Recipe recipe, TorchFileLayout layout, List<Rewritten.Storage> storages) {
    targets.add(
        new TargetFile(
            path,
            layout.totalBytes(),
            recipe,
            storages.stream()
                .map(s -> new TargetFile.Entry(s.key(), layout.payloadOffset(s.key()), s.bytes()))
                .toList()));
    return targets.size() - 1;
  }

  /** Copies bytes that are not partitioned; the first copy of a storage proves it. */
  void carry(Address source, Address target, long bytes) {
    if (bytes > 0) {
      boolean proves =
          source.entry() != NO_ENTRY && proven.add(((long) source.file() << 32) | source.entry());
      carried.add(SliceCopy.of(source, target, bytes, proves));
    }
  }

  /** Registers a partitioned model; its index. */
  int addModel(PartitionedModel model) {
    models.add(model);
    return models.size() - 1;
  }
}
