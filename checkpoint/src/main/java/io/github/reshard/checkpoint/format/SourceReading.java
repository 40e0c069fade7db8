package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.DegreeChange;
import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.FilesAhead;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ConcurrentHashMap;
import java.util.zip.CRC32;

/** What a reader collects of a checkpoint until it is a {@link TrainingState}. */
public class SourceReading {
  private final SourceStore store;
  private final String where;
  private final String tag;
  private final List<SourceFile> sources = new ArrayList<>();
  private final List<ModelPart> parts = new ArrayList<>();
  private final List<ParameterSet> parameters = new ArrayList<>();
  private final List<CarriedFile> carried = new ArrayList<>();
  private final List<Evidence> evidence = new ArrayList<>();
  private final List<String> notes = new ArrayList<>();
  private final Map<Long, byte[]> pickles = new ConcurrentHashMap<>();
  private ModelParallelism parallelism = ModelParallelism.NONE;
  private int dataParallelRanks;

  /**
   * @param store reads the files
   * @param where the checkpoint is, for messages
   * @param tag what it is called
   */
  public SourceReading(SourceStore store, String where, String tag) {
    this.store = store;
    this.where = where;
    this.tag = tag;
  }

  /** Reads the files. */
  public final SourceStore store() {
    return store;
  }

  /** Where the checkpoint is, for messages. */
  public final String where() {
    return where;
  }

  /** All files that were added, in that order. */
  public final List<SourceFile> sources() {
    return Collections.unmodifiableList(sources);
  }

  /** Data-parallel ranks of the source, once a file said so. */
  public final int dataParallelRanks() {
    return dataParallelRanks;
  }

  /**
   * Takes note of how many data-parallel ranks saved the checkpoint.
   *
   * @param file says so
   * @throws RefusedException if another file says otherwise
   */
  public final void setDataParallelRanks(FileStat file, int ranks) {
    if (dataParallelRanks != 0 && dataParallelRanks != ranks) {
      throw new RefusedException(
          file.path(),
          "dp_world_size is %d, another mp rank's is %d. The files are of different checkpoints."
              .formatted(ranks, dataParallelRanks));
    }
    dataParallelRanks = ranks;
  }

  /** Sets how GPUs share the model. */
  public final void setParallelism(ModelParallelism degrees) {
    parallelism = degrees;
  }

  /** Says something to the user. */
  public final void note(String note) {
    notes.add(note);
  }

  /** Takes note of what was proven. */
  public final void prove(Evidence proven) {
    evidence.add(proven);
  }

  /** Reads many files and hands them to {@code use}, one at a time and in this order. */
  public final void readEach(Collection<FileStat> stats, FilesAhead.Use<TorchFile> use)
      throws IOException {
    FilesAhead.forEach(stats, store.readsAtOnce(), this::read, use);
  }

  public final TorchFile read(FileStat stat) throws IOException {
    try (RangedFile file = store.open(stat)) {
      return TorchFile.read(file).compact(this::shared);
    }
  }

  /** The one copy of equal pickles. */
  private byte[] shared(byte[] pickle) {
    CRC32 crc = new CRC32();
    crc.update(pickle);
    byte[] known = pickles.putIfAbsent(crc.getValue() << 32 | pickle.length, pickle);
    return known != null && Arrays.equals(known, pickle) ? known : pickle;
  }

  /**
   * Registers a torch file of the source; its index. Entries of 0 bytes have no place in a plan: a
   * ZeRO-3 model file has one for each parameter.
   */
  public int addSource(FileStat stat, TorchFile file) {
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

  /** Registers a file of any kind; its index. */
  public final int addSource(SourceFile file) {
    sources.add(file);
    return sources.size() - 1;
  }

  /** Registers a file that is not looked into; its index. */
  public final int addSource(FileStat stat) {
    sources.add(new SourceFile(stat, List.of(), false));
    return sources.size() - 1;
  }

  /** Registers a set of parameters; its index. */
  public final int addParameters(ParameterSet set) {
    parameters.add(set);
    return parameters.size() - 1;
  }

  /** The sets of parameters so far. */
  public final List<ParameterSet> parameters() {
    return Collections.unmodifiableList(parameters);
  }

  /** Replaces a set of parameters. */
  public final void setParameters(int index, ParameterSet set) {
    parameters.set(index, set);
  }

  public final void addPart(ModelPart part) {
    parts.add(part);
  }

  /**
   * A file that goes along as it is and was read.
   *
   * @param path where it goes in the tag
   */
  public final void carry(String path, ReadFile file) {
    carried.add(new CarriedFile(path, true, file.source(), Optional.of(file.file())));
  }

  /**
   * A file that goes along as it is.
   *
   * @param path where it goes: in the tag, or relative to the output
   * @param ofTag whether it lies in the tag
   * @param source its index
   */
  public final void carry(String path, boolean ofTag, int source) {
    carried.add(new CarriedFile(path, ofTag, source, Optional.empty()));
  }

  /** Where {@code tensor} of a source file begins. */
  public final Address address(int source, TorchFile file, String at, TensorNode tensor) {
    return Addresses.of(sources.get(source), source, file, at, tensor);
  }

  /** Where {@code storage} of a source file begins. */
  public final Address address(int source, TorchFile file, String at, StorageNode storage) {
    return Addresses.of(sources.get(source), source, file, at, storage);
  }

  /** Whether what was read is the same for all numbers of ranks that it may be read for. */
  public boolean isForAnySize() {
    return false;
  }

  /** The state that was read. */
  public final TrainingState state() {
    return new TrainingState(
        store,
        where,
        tag,
        dataParallelRanks,
        DegreeChange.to(parallelism),
        sources,
        parts,
        parameters,
        carried,
        evidence,
        notes,
        isForAnySize());
  }
}
