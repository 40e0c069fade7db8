package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.SourceReading;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.OptionalInt;

/** What a reader collects of files of DeepSpeed: what their names and counters prove as well. */
public final class DeepSpeedReading extends SourceReading {
  private final CheckpointFiles files;
  private final int targetWorldSize;
  private final OptionalInt targetExperts;
  private boolean askedForTarget;
  private final ArchiveNames archives = new ArchiveNames();
  private final OneStep steps = new OneStep(this);

  /**
   * @param targetWorldSize data-parallel ranks that the checkpoint is read for
   */
  public DeepSpeedReading(SourceStore store, CheckpointFiles files, int targetWorldSize) {
    this(store, files, targetWorldSize, OptionalInt.empty());
  }

  /**
   * @param targetWorldSize data-parallel ranks that the checkpoint is read for
   * @param targetExperts the expert-parallel size that it is read for, if not as saved
   */
  public DeepSpeedReading(
      SourceStore store, CheckpointFiles files, int targetWorldSize, OptionalInt targetExperts) {
    super(
        store,
        files.tag().isEmpty() ? files.directory() : files.directory() + "/" + files.tag(),
        files.tag());
    this.files = files;
    this.targetWorldSize = targetWorldSize;
    this.targetExperts = targetExperts;
  }

  /** Which files there are. */
  public CheckpointFiles files() {
    return files;
  }

  /**
   * Data-parallel ranks that the checkpoint is read for. What is read by whoever asks is for that
   * size alone.
   */
  public int targetWorldSize() {
    askedForTarget = true;
    return targetWorldSize;
  }

  @Override
  public boolean isForAnySize() {
    return !askedForTarget;
  }

  /** The expert-parallel size that the checkpoint is read for, if not as saved. */
  public OptionalInt targetExperts() {
    return targetExperts;
  }

  /** Whether the files are of one step. */
  public OneStep steps() {
    return steps;
  }

  /**
   * Sets how GPUs share the model.
   *
   * @param model a model file
   */
  public void setParallelism(ModelStates model) {
    setParallelism(SavedDegrees.of(files, model.root()));
  }

  /**
   * As any reading does.
   *
   * @throws RefusedException if it was saved as another file of a checkpoint
   */
  @Override
  public int addSource(FileStat stat, TorchFile file) {
    archives.add(stat, file);
    return super.addSource(stat, file);
  }

  /**
   * Adds what all of the files prove together, and the files that nobody looks into.
   *
   * @throws RefusedException if the file of one rank is there for another one, too
   */
  public void finish() throws IOException {
    archives.evidence().forEach(this::prove);
    new CopiedShards(this).refuse(steps.trainedSteps() > 0).ifPresent(this::prove);
    steps.evidence().forEach(this::prove);
    for (CheckpointFiles.Carried other : files.others()) {
      carry(other.path().substring(files.tag().length() + 1), true, addSource(other.stat()));
    }
    files.beside().forEach(other -> carry(other.path(), false, addSource(other.stat())));
  }
}
