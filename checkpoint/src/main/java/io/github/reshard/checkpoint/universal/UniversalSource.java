package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.storage.ComposedStore;
import io.github.reshard.checkpoint.storage.ComposedStore.Composed;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;

/**
 * A Universal Checkpoint, seen as the checkpoint that one data-parallel rank would have saved: what
 * lies in its many files is read as if it lay in that rank's optimizer file, and all that is known
 * of such checkpoints holds for it, proofs included. Only metadata is read.
 *
 * @param store reads it
 * @param files of that one rank
 */
public record UniversalSource(SourceStore store, CheckpointFiles files) {
  /** What is unusual about such a checkpoint. */
  public static final String ODDITY =
      "a Universal Checkpoint, which is shown as if one data-parallel rank had saved it: zero/"
          + " holds every state whole";

  /** Whether {@code files} are those of a Universal Checkpoint. */
  public static boolean is(CheckpointFiles files) {
    return files.optimizers().isEmpty() && optimizerState(files).isPresent();
  }

  private static Optional<FileStat> optimizerState(CheckpointFiles files) {
    String path = UniversalFiles.optimizer(files.tag());
    return files.others().stream()
        .filter(other -> other.path().equals(path))
        .map(CheckpointFiles.Carried::stat)
        .findFirst();
  }

  /**
   * Reads what it says.
   *
   * @throws RefusedException if it is not whole, contradicts itself, or holds what is not
   *     understood
   */
  public static UniversalSource of(SourceStore store, CheckpointFiles files) throws IOException {
    UniversalTensors.Saved shared = read(store, optimizerState(files).orElseThrow());
    int stage = shared.root().findPresent("zero_stage").map(ZeroStage::of).orElse(1);
    boolean sharded = stage == 3;
    UniversalTensors tensors = new UniversalTensors(store, files);
    List<Composed> composed = new ArrayList<>();
    SortedMap<Integer, FileStat> models = new TreeMap<>();
    SortedMap<Integer, SortedMap<Integer, FileStat>> rankModels = new TreeMap<>();
    SortedMap<Integer, SortedMap<Integer, FileStat>> optimizers = new TreeMap<>();
    Set<String> known = new HashSet<>();
    Map<Integer, SortedMap<Integer, FileStat>> saved = sharded ? files.rankModels() : of(files);
    if (saved.isEmpty()) {
      throw new RefusedException(
          files.directory() + "/" + files.tag(),
          "is a Universal Checkpoint of ZeRO-%d without its model file %s."
              .formatted(
                  stage,
                  sharded ? UniversalModelFile.shardedName(0) : UniversalModelFile.flatName(0)));
    }
    List<UniversalTensors.Saved> firsts = new ArrayList<>();
    List<ModelStates> said = new ArrayList<>();
    for (SortedMap<Integer, FileStat> ofMpRank : saved.values()) {
      firsts.add(read(store, ofMpRank.get(ofMpRank.firstKey())));
      said.add(model(firsts.get(firsts.size() - 1)));
    }
    TensorShares shares = TensorShares.of(files, said);
    for (Map.Entry<Integer, SortedMap<Integer, FileStat>> ofMpRank : saved.entrySet()) {
      int mpRank = ofMpRank.getKey();
      UniversalTensors.Saved first = firsts.get(optimizers.size());
      Map<String, TensorShares.Share> own = shares.byRank().get(optimizers.size());
      OneRank rank =
          sharded
              ? ShardedRank.of(store, shared, tensors, mpRank, first, ofMpRank.getValue(), own)
              : FlatRank.of(store, shared, tensors, mpRank, first, own);
      rank.model().ifPresent(composed::add);
      composed.add(rank.optimizer());
      FileStat model =
          rank.model()
              .map(Composed::stat)
              .orElseGet(() -> ofMpRank.getValue().get(ofMpRank.getValue().firstKey()));
      if (sharded) {
        rankModels.put(mpRank, new TreeMap<>(Map.of(0, model)));
      } else {
        models.put(mpRank, model);
      }
      optimizers.put(mpRank, new TreeMap<>(Map.of(0, rank.optimizer().stat())));
      known.addAll(rank.parameters());
    }
    tensors.requireOnly(known);
    String folder = files.tag() + "/" + UniversalFiles.FOLDER + "/";
    return new UniversalSource(
        new ComposedStore(store, composed),
        new CheckpointFiles(
            files.directory(),
            files.tag(),
            models,
            rankModels,
            optimizers,
            files.layers(),
            files.experts(),
            files.others().stream().filter(other -> !other.path().startsWith(folder)).toList(),
            files.beside()));
  }

  /** The model files of ZeRO-1 and 2, as if each were rank 0's. */
  private static Map<Integer, SortedMap<Integer, FileStat>> of(CheckpointFiles files) {
    SortedMap<Integer, SortedMap<Integer, FileStat>> byMpRank = new TreeMap<>();
    files.models().forEach((mpRank, stat) -> byMpRank.put(mpRank, new TreeMap<>(Map.of(0, stat))));
    return byMpRank;
  }

  /**
   * The files of one rank.
   *
   * @param model the model file, unless the one that is there is that of one rank
   * @param optimizer the optimizer file
   * @param parameters the names of all that is trained
   */
  record OneRank(Optional<Composed> model, Composed optimizer, Set<String> parameters) {}

  static UniversalTensors.Saved read(SourceStore store, FileStat stat) throws IOException {
    try (RangedFile file = store.open(stat)) {
      return new UniversalTensors.Saved(stat, TorchFile.read(file));
    }
  }

  /** What the name of an optimizer file begins with (runtime/engine.py, {@code bf16_mode}). */
  static String prefix(ModelStates model) {
    boolean bf16 =
        model
            .config()
            .map(DsConfig::usesBf16)
            .orElseGet(
                () ->
                    model.module().values().stream()
                        .anyMatch(weight -> weight.dtype() == DType.BFLOAT16));
    return bf16 ? "bf16_" : "";
  }

  static ModelStates model(UniversalTensors.Saved saved) {
    PickledValue root = saved.root();
    if (!root.isDict()) {
      throw root.refused("expected a model file of DeepSpeed, found " + root.describe() + ".");
    }
    return new ModelStates(root);
  }
}
