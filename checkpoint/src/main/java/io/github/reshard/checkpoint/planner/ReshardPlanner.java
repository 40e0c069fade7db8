package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.CopiedShards;
import io.github.reshard.checkpoint.deepspeed.PlanBuilder;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.openstate.OpenStateSource;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.shards.UserHints;
import io.github.reshard.checkpoint.shards.UserShards;
import io.github.reshard.checkpoint.shards.UserShardsPlanner;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.universal.UniversalLoad;
import io.github.reshard.checkpoint.universal.UniversalWriter;
import io.github.reshard.checkpoint.zero12.FlatPlanner;
import io.github.reshard.checkpoint.zero3.OtherWriter;
import io.github.reshard.checkpoint.zero3.ShardedPlanner;
import io.github.reshard.checkpoint.zero3.StagePlanner;
import java.io.IOException;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;

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
    PlanBuilder plan = new PlanBuilder(store, files, targetWorldSize, targetStage);
    addParameters(plan, Optional.empty());
    addRest(plan);
    return finished(plan, targetWorldSize, partBytes);
  }

  private static void addParameters(PlanBuilder plan, Optional<OtherWriter> writer)
      throws IOException {
    requireKnownKind(plan.store, plan.files);
    if (plan.files.rankModels().isEmpty()) {
      FlatPlanner.plan(
          plan, writer, (mpRank, reader, from) -> StagePlanner.toSharded(plan, reader, from));
    } else {
      ShardedPlanner.plan(plan, writer);
    }
  }

  private static void addRest(PlanBuilder plan) throws IOException {
    CheckpointFiles files = plan.files;
    plan.evidence.addAll(plan.archives.evidence());
    new CopiedShards(plan).refuse(plan.steps.trainedSteps() > 0).ifPresent(plan.evidence::add);
    plan.evidence.addAll(plan.steps.evidence());
    for (CheckpointFiles.Carried other : files.others()) {
      plan.copyAsIs(plan.targetTag + other.path().substring(files.tag().length()), other.stat());
    }
    files.beside().forEach(other -> plan.copyAsIs(other.path(), other.stat()));
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
    return UniversalPlan.named(plan(store, files, targetWorldSize, targetStage, partBytes));
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
    ReshardPlan plan = plan(state.store(), state.files(), targetWorldSize, stage, partBytes);
    return UniversalPlan.named(plan, state.notes());
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
    PlanBuilder plan = new PlanBuilder(store, files, 1, ZeroStage.AS_SAVED);
    UniversalWriter writer = new UniversalWriter(plan, new UniversalLoad(plan, ranks, stage));
    addParameters(plan, Optional.of(writer));
    writer.finish();
    addRest(plan);
    return finished(plan, ReshardPlan.ANY_WORLD_SIZE, partBytes);
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
    PlanBuilder plan = new PlanBuilder(store, user.files(), targetWorldSize, ZeroStage.AS_SAVED);
    UserShardsPlanner.plan(plan, user, hints);
    return finished(plan, targetWorldSize, partBytes);
  }

  private static ReshardPlan finished(PlanBuilder plan, int targetWorldSize, long partBytes) {
    return new ReshardPlan(
        plan.where(),
        plan.targetTag,
        plan.sourceWorldSize(),
        targetWorldSize,
        plan.parallelism,
        plan.sources,
        plan.targets,
        plan.models,
        plan.carried,
        plan.padding,
        plan.evidence,
        plan.notes,
        partBytes);
  }

  private static void requireKnownKind(SourceStore store, CheckpointFiles files)
      throws IOException {
    String where = files.directory() + "/" + files.tag();
    String universal = files.tag() + "/zero/";
    if (files.optimizers().isEmpty()
        && files.others().stream().anyMatch(other -> other.path().startsWith(universal))) {
      throw new RefusedException(
          where,
          "this is a Universal Checkpoint, which DeepSpeed loads at any number of ranks as it is;"
              + " name the tag that it was made of with --tag.");
    }
    if (files.rankModels().isEmpty()) {
      requireBoth(store, where, files.models(), files.optimizers().keySet(), "mp_rank_*");
    } else if (files.models().isEmpty()) {
      SortedMap<Integer, FileStat> ofRanks = new TreeMap<>();
      files
          .rankModels()
          .forEach((mpRank, ranks) -> ofRanks.put(mpRank, ranks.get(ranks.firstKey())));
      requireBoth(store, where, ofRanks, files.optimizers().keySet(), "zero_pp_rank_*_mp_rank_*");
    } else {
      throw new RefusedException(
          where,
          "has the model files both of ZeRO-3 (%s) and of ZeRO-1 or 2 (%s). Two checkpoints are mixed here; keep the files of one."
              .formatted(
                  files
                      .rankModels()
                      .get(files.rankModels().firstKey())
                      .values()
                      .iterator()
                      .next()
                      .name(),
                  files.models().get(files.models().firstKey()).name()));
    }
  }

  private static void requireBoth(
      SourceStore store,
      String where,
      SortedMap<Integer, FileStat> models,
      Set<Integer> optimizers,
      String modelName)
      throws IOException {
    if (models.isEmpty() && optimizers.isEmpty()) {
      throw new RefusedException(
          where,
          "expected files of DeepSpeed such as mp_rank_00_model_states.pt and"
              + " zero_pp_rank_0_mp_rank_00_optim_states.pt, found none.");
    }
    if (optimizers.isEmpty()) {
      requireZero(store, models.get(models.firstKey()));
      throw new RefusedException(
          where,
          "has model files and no optimizer files (zero_pp_rank_*_mp_rank_*_optim_states.pt). If"
              + " nodes wrote to disks of their own, copy the files of all nodes into one"
              + " directory, or give all of these: --input='/mnt/node*/ckpt'.");
    }
    if (models.isEmpty()) {
      throw new RefusedException(
          where,
          "has optimizer files and no model file (%s_model_states.pt). If nodes wrote to disks of their own, copy the files of all nodes into one directory, or give all of these: --input='/mnt/node*/ckpt'."
              .formatted(modelName));
    }
    if (!models.keySet().equals(optimizers)) {
      throw new RefusedException(
          where,
          "model files are there of the mp ranks %s, optimizer files of %s; they must be the same. If nodes wrote to disks of their own, copy the files of all nodes into one directory, or give all of these: --input='/mnt/node*/ckpt'."
              .formatted(models.keySet(), optimizers));
    }
  }

  /** Without ZeRO the optimizer's state is in the model file, whole (runtime/engine.py). */
  private static void requireZero(SourceStore store, FileStat model) throws IOException {
    TorchFile file;
    try (RangedFile open = store.open(model)) {
      file = TorchFile.read(open);
    }
    PickledValue root = PickledValue.root(file.path(), file.parse().root());
    if (root.isDict() && root.findPresent("optimizer").isPresent()) {
      throw new RefusedException(
          file.path(),
          "holds the whole state of the optimizer: ZeRO was off (stage 0), so nothing is"
              + " partitioned. DeepSpeed loads this checkpoint at any number of data-parallel ranks"
              + " as it is.");
    }
  }
}
