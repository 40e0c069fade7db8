package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.plan.Recipe;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.plan.WholeFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.FilesAhead;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.Comparator;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/** Reads the source's files and collects the lists of a {@link ReshardPlan} while it is made. */
public final class PlanBuilder {
  /** The entry of bytes that belong to no zip entry's payload. */
  public static final int NO_ENTRY = -1;

  public final SourceStore store;
  public final CheckpointFiles files;
  public final int targetWorldSize;

  /** The ZeRO stage that the target is for, or {@link ZeroStage#AS_SAVED}. */
  public final int targetStage;

  /** The tag that is written. */
  public String targetTag;

  public ModelParallelism parallelism = ModelParallelism.NOT_SAID;

  /** Whether optimizer files get dicts and numbers in the place of DeepSpeed's own objects. */
  public boolean plainObjects;

  public final List<SourceFile> sources = new ArrayList<>();
  public final List<TargetFile> targets = new ArrayList<>();
  public final List<PartitionedModel> models = new ArrayList<>();
  public final List<SliceCopy> carried = new ArrayList<>();
  public final List<ReshardPlan.Padding> padding = new ArrayList<>();
  public final List<String> notes = new ArrayList<>();
  public final List<Evidence> evidence = new ArrayList<>();
  public final ArchiveNames archives = new ArchiveNames();
  public final OneStep steps = new OneStep(this);
  private final Set<Long> proven = new HashSet<>();
  private final Map<ByteBuffer, ByteBuffer> pickles = new ConcurrentHashMap<>();
  private int sourceWorldSize;

  public PlanBuilder(
      SourceStore store, CheckpointFiles files, int targetWorldSize, int targetStage) {
    this.store = store;
    this.files = files;
    this.targetWorldSize = targetWorldSize;
    this.targetStage = targetStage;
    this.targetTag = files.tag();
  }

  /** Data-parallel ranks of the source, once a model file said so. */
  public int sourceWorldSize() {
    return sourceWorldSize;
  }

  /**
   * Takes note of what a model file says.
   *
   * @throws RefusedException if another model file says otherwise
   */
  public void setSourceWorldSize(FileStat model, int ranks) {
    if (sourceWorldSize != 0 && sourceWorldSize != ranks) {
      throw new RefusedException(
          model.path(),
          "dp_world_size is %d, another mp rank's is %d. The files are of different checkpoints."
              .formatted(ranks, sourceWorldSize));
    }
    sourceWorldSize = ranks;
  }

  /** The recipe of an optimizer file, in the form that was asked for. */
  public TorchRecipe optimizerRecipe(TorchRecipe recipe) {
    return plainObjects ? new PlainObjectsRecipe(recipe) : recipe;
  }

  /** Whether the target is for another ZeRO stage than {@code stage}, the source's. */
  public boolean isConversionOf(int stage) {
    return targetStage != ZeroStage.AS_SAVED && targetStage != stage;
  }

  /**
   * What is thrown where a checkpoint cannot be turned to the target's stage.
   *
   * @param problem what the checkpoint has or lacks, a sentence without its end
   */
  public RefusedException notConvertible(String problem) {
    return new RefusedException(
        where(),
        "%s, so it cannot be turned to stage %d. Leave --targetStage out, or choose another."
            .formatted(problem, targetStage));
  }

  /** Where the checkpoint is, for messages. */
  public String where() {
    return files.tag().isEmpty() ? files.directory() : files.directory() + "/" + files.tag();
  }

  /** Reads many files and hands them to {@code use}, one at a time and in this order. */
  public void readEach(Collection<FileStat> stats, FilesAhead.Use<TorchFile> use)
      throws IOException {
    FilesAhead.forEach(stats, store.readsAtOnce(), this::read, use);
  }

  public TorchFile read(FileStat stat) throws IOException {
    try (RangedFile file = store.open(stat)) {
      return TorchFile.read(file)
          .compact(
              pickle -> {
                ByteBuffer known = pickles.putIfAbsent(pickle, pickle);
                return known == null ? pickle : known;
              });
    }
  }

  /**
   * Registers a torch file of the source; its index. Entries of 0 bytes have no place in a plan: a
   * ZeRO-3 model file has one for each parameter.
   *
   * @throws RefusedException if it was saved as another file of a checkpoint
   */
  public int addSource(FileStat stat, TorchFile file) {
    archives.add(stat, file);
    sources.add(
        new SourceFile(
            stat,
            file.entries().stream()
                .filter(entry -> entry.bytes() > 0)
                .sorted(Comparator.comparingLong(TorchFile.Entry::payloadOffset))
                .toList(),
            file.hasCrcs()));
    return sources.size() - 1;
  }

  /** Where {@code tensor} of a source file begins. */
  public Address address(int source, TorchFile file, String where, TensorNode tensor) {
    return address(source, file, where, tensor.storage())
        .plus(bounded(where, tensor).storageOffset() * tensor.dtype().bytes());
  }

  private static TensorNode bounded(String where, TensorNode tensor) {
    tensor.requireInBounds(where);
    return tensor;
  }

  /** Where {@code storage} of a source file begins. */
  public Address address(int source, TorchFile file, String where, StorageNode storage) {
    if (storage.bytes() == 0) {
      return new Address(source, NO_ENTRY, 0);
    }
    TorchFile.Entry entry =
        file.storage(storage.key())
            .orElseThrow(
                () ->
                    new RefusedException(
                        where,
                        "the file has no storage '%s'. It is damaged.".formatted(storage.key())));
    if (entry.bytes() != storage.bytes()) {
      throw new RefusedException(
          where,
          "the pickle says that storage '%s' has %d bytes, the zip entry %s has %d. The file is damaged."
              .formatted(storage.key(), storage.bytes(), entry.name(), entry.bytes()));
    }
    return address(source, entry);
  }

  /** Where the storage {@code key} of a source file begins; nowhere if it has 0 bytes. */
  Address storageAddress(int source, TorchFile file, String key) {
    return file.storage(key)
        .map(entry -> address(source, entry))
        .orElse(new Address(source, NO_ENTRY, 0));
  }

  private Address address(int source, TorchFile.Entry entry) {
    int found =
        entry.bytes() == 0
            ? NO_ENTRY
            : Collections.binarySearch(
                sources.get(source).entries(),
                entry,
                Comparator.comparingLong(TorchFile.Entry::payloadOffset));
    return new Address(source, found, entry.payloadOffset());
  }

  /** A file that is not looked into, copied to {@code path}. */
  public void copyAsIs(String path, FileStat stat) {
    sources.add(new SourceFile(stat, List.of(), false));
    int source = sources.size() - 1;
    int target = addWhole(path, source, stat.bytes());
    carry(new Address(source, NO_ENTRY, 0), new Address(target, 0, 0), stat.bytes());
  }

  /** A torch file that is copied to {@code path}; the bytes of its entries are proven. */
  public void copyAsIs(String path, int source) {
    SourceFile file = sources.get(source);
    int target = addWhole(path, source, file.stat().bytes());
    long at = 0;
    for (int e = 0; e < file.entries().size(); e++) {
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
            path, bytes, new WholeFile(source), List.of(new TargetFile.Entry("", 0, bytes))));
    return targets.size() - 1;
  }

  /**
   * A file that is written anew.
   *
   * @param index into the plan's targets
   * @param storages where each of its storages begins
   */
  public record Written(int index, List<Address> storages) {}

  /**
   * Registers a file that is written anew, and has copied what it takes over from its template.
   * Storages of 0 bytes are no entries of it.
   *
   * @param source index of the template
   * @param template the template
   */
  public Written addTarget(
      String path, Recipe recipe, TorchTarget.Planned planned, int source, TorchFile template) {
    List<TargetFile.Entry> entries = new ArrayList<>();
    List<Address> begins = new ArrayList<>();
    for (Rewritten.Storage storage : planned.storages()) {
      long offset = planned.layout().payloadOffset(storage.key());
      int entry = NO_ENTRY;
      if (storage.bytes() > 0) {
        entry = entries.size();
        entries.add(new TargetFile.Entry(storage.key(), offset, storage.bytes()));
      }
      begins.add(new Address(targets.size(), entry, offset));
    }
    targets.add(new TargetFile(path, planned.layout().totalBytes(), recipe, entries));
    for (int s = 0; s < begins.size(); s++) {
      Rewritten.Storage storage = planned.storages().get(s);
      if (storage.content() instanceof Rewritten.Content.Carried carried) {
        carry(
            storageAddress(source, template, carried.sourceKey()), begins.get(s), storage.bytes());
      } else if (storage.content() instanceof Rewritten.Content.Copied copied
          && storage.bytes() > 0) {
        this.carried.add(
            SliceCopy.of(
                storageAddress(source, template, copied.sourceKey()).plus(copied.from()),
                begins.get(s),
                storage.bytes(),
                false));
      }
    }
    return new Written(targets.size() - 1, begins);
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
  public int addModel(PartitionedModel model) {
    models.add(model);
    return models.size() - 1;
  }
}
