package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.KnownKind;
import io.github.reshard.checkpoint.deepspeed.TensorChange;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.CheckpointReader;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.openstate.OpenStateSource;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.shards.UserHints;
import io.github.reshard.checkpoint.shards.UserShards;
import io.github.reshard.checkpoint.shards.UserShardsReader;
import io.github.reshard.checkpoint.shards.UserShardsWriter;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.universal.UniversalFiles;
import io.github.reshard.checkpoint.universal.UniversalReader;
import io.github.reshard.checkpoint.universal.UniversalWriter;
import io.github.reshard.checkpoint.zero12.FlatReader;
import io.github.reshard.checkpoint.zero12.FlatWriter;
import io.github.reshard.checkpoint.zero3.ShardedReader;
import io.github.reshard.checkpoint.zero3.ShardedWriter;
import java.io.IOException;
import java.util.Optional;

/** Reads the metadata of a checkpoint and plans its reshard. */
public final class ReshardPlanner {
  private ReshardPlanner() {}

  /**
   * Plans the reshard of {@code files} to {@code targetWorldSize} data-parallel ranks.
   *
   * @param partBytes the size of a part of a target file
   * @throws RefusedException if the checkpoint is not whole, contradicts itself, or holds what is
   *     not understood
   */
  public static ReshardPlan plan(
      SourceStore store, CheckpointFiles files, int targetWorldSize, long partBytes)
      throws IOException {
    return plan(store, files, targetWorldSize, ZeroStage.AS_SAVED, partBytes);
  }

  /**
   * Plans the reshard of {@code files} to {@code targetWorldSize} data-parallel ranks of a run at
   * another ZeRO stage.
   *
   * @param targetStage 1, 2 or 3, or {@link ZeroStage#AS_SAVED}
   * @param partBytes the size of a part of a target file
   * @throws RefusedException as the other one, or if that stage does not support what the
   *     checkpoint has
   */
  public static ReshardPlan plan(
      SourceStore store,
      CheckpointFiles files,
      int targetWorldSize,
      int targetStage,
      long partBytes)
      throws IOException {
    return plan(store, files, targetWorldSize, targetStage, TargetDegrees.AS_SAVED, partBytes);
  }

  /**
   * Plans the reshard of {@code files} to a run at other degrees of parallelism as well.
   *
   * @param targetStage 1, 2 or 3, or {@link ZeroStage#AS_SAVED}
   * @param degrees the other degrees
   * @param partBytes the size of a part of a target file
   * @throws RefusedException as the other one, or if what the checkpoint has cannot be divided so
   */
  public static ReshardPlan plan(
      SourceStore store,
      CheckpointFiles files,
      int targetWorldSize,
      int targetStage,
      TargetDegrees degrees,
      long partBytes)
      throws IOException {
    KnownKind.require(store, files);
    requirePossible(files, targetStage, degrees);
    TrainingState state = reader(store, files, degrees).read(targetWorldSize);
    if (degrees.tensor().isPresent()) {
      state = TensorChange.of(state, degrees.tensor().get().request(store, files));
    }
    return writer(files, targetStage, degrees).plan(state, new Target(targetWorldSize, partBytes));
  }

  private static CheckpointReader reader(
      SourceStore store, CheckpointFiles files, TargetDegrees degrees) {
    return isSharded(files)
        ? new ShardedReader(store, files)
        : new FlatReader(store, files, degrees.experts());
  }

  private static void requirePossible(
      CheckpointFiles files, int targetStage, TargetDegrees degrees) {
    String where = files.directory() + "/" + files.tag();
    if (degrees.tensor().isPresent() && targetStage != ZeroStage.AS_SAVED) {
      throw new RefusedException(
          where,
          "the tensor-parallel size and the ZeRO stage cannot change at once yet. Change one"
              + " after the other.");
    }
    if (degrees.tensor().isPresent()
        && (degrees.experts().isPresent() || degrees.pipeline().isPresent())) {
      throw new RefusedException(
          where,
          "the tensor-parallel size and that of experts or pipelines cannot change at once yet."
              + " Change one after the other.");
    }
    if (degrees.experts().isPresent() && (isSharded(files) || targetStage == 3)) {
      throw new RefusedException(
          where,
          "ZeRO-3 has no experts that ranks could divide. Leave --targetExpertParallelSize out.");
    }
    if (degrees.pipeline().isPresent() && (isSharded(files) || targetStage != ZeroStage.AS_SAVED)) {
      throw new RefusedException(
          where,
          "the stages of a pipeline and the ZeRO stage do not change together, and pipelines are"
              + " only of ZeRO-1. Leave --targetPipelineParallelSize or --targetStage out.");
    }
  }

  private static boolean isSharded(CheckpointFiles files) {
    return !files.rankModels().isEmpty();
  }

  private static CheckpointWriter writer(
      CheckpointFiles files, int targetStage, TargetDegrees degrees) {
    boolean sharded = targetStage == ZeroStage.AS_SAVED ? isSharded(files) : targetStage == 3;
    return sharded
        ? new ShardedWriter()
        : new FlatWriter(targetStage, degrees.experts(), degrees.pipeline());
  }

  /**
   * Plans DeepSpeed's own files of a Universal Checkpoint.
   *
   * @param store reads it
   * @param files as {@link io.github.reshard.checkpoint.universal.UniversalSource} sees them
   * @param targetStage 1, 2 or 3, or {@link ZeroStage#AS_SAVED}
   * @param partBytes the size of a part of a target file
   * @throws RefusedException as the others
   */
  public static ReshardPlan planOfUniversal(
      SourceStore store,
      CheckpointFiles files,
      int targetWorldSize,
      int targetStage,
      long partBytes)
      throws IOException {
    KnownKind.require(store, files);
    return writer(files, targetStage, TargetDegrees.AS_SAVED)
        .plan(
            new UniversalReader(store, files).read(targetWorldSize),
            new Target(targetWorldSize, partBytes));
  }

  /**
   * Plans DeepSpeed's own files of an open training state.
   *
   * @param targetStage 1, 2 or 3, or {@link ZeroStage#AS_SAVED} for that of the run that it was
   *     made of
   * @param partBytes the size of a part of a target file
   * @throws RefusedException as the others
   */
  public static ReshardPlan plan(
      OpenStateSource state, int targetWorldSize, int targetStage, long partBytes)
      throws IOException {
    int stage = targetStage == ZeroStage.AS_SAVED && state.stage() == 3 ? 3 : targetStage;
    KnownKind.require(state.store(), state.files());
    return writer(state.files(), stage, TargetDegrees.AS_SAVED)
        .plan(
            reader(state.store(), state.files(), TargetDegrees.AS_SAVED)
                .read(targetWorldSize)
                .composed(UniversalFiles.nativeTag(state.files().tag()), state.notes()),
            new Target(targetWorldSize, partBytes));
  }

  /**
   * Plans a Universal Checkpoint of {@code files}.
   *
   * @param ranks how many data-parallel ranks will load it, if that is known
   * @param stage the ZeRO stage that they will have, or {@link ZeroStage#AS_SAVED}
   * @param partBytes the size of a part of a target file
   * @throws RefusedException as the others, or if {@code load_universal} cannot load what the
   *     checkpoint has, on any ranks or on these
   */
  public static ReshardPlan planUniversal(
      SourceStore store, CheckpointFiles files, Optional<Integer> ranks, int stage, long partBytes)
      throws IOException {
    KnownKind.require(store, files);
    return new UniversalWriter(ranks, stage)
        .plan(reader(store, files, TargetDegrees.AS_SAVED).read(1), new Target(1, partBytes));
  }

  /**
   * Plans the reshard of shards that a user saved.
   *
   * @param hints what the user adds to them
   * @throws RefusedException if they are not the shards of all ranks of one run at one step, or
   *     hold what is not understood
   */
  public static ReshardPlan plan(
      SourceStore store, UserShards user, UserHints hints, int targetWorldSize, long partBytes)
      throws IOException {
    return new UserShardsWriter(user, hints.sanitize())
        .plan(
            new UserShardsReader(store, user, hints).read(targetWorldSize),
            new Target(targetWorldSize, partBytes));
  }
}
