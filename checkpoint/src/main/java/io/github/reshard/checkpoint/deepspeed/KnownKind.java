package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;

/** Whether the files of a checkpoint are those of one kind of ZeRO, both models and optimizers. */
public final class KnownKind {
  private KnownKind() {}

  /**
   * Refuses a directory whose files are not those of one kind.
   *
   * @throws RefusedException if there are files of both kinds, or of one sort only
   */
  public static void require(SourceStore store, CheckpointFiles files) throws IOException {
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
