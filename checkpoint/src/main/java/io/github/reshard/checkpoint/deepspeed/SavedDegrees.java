package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.Optional;

/**
 * The degrees of parallelism that saved a checkpoint. How many model-parallel ranks there are, the
 * names of files tell. What these share, a model file says since DeepSpeed 0.19 ({@code
 * checkpoint_parallel_dimensions}), but not of a run that shares sequences, which gives that degree
 * as the tensor-parallel one; and the files of a pipeline's layers tell.
 */
final class SavedDegrees {
  private SavedDegrees() {}

  /**
   * @param model a model file
   */
  static ModelParallelism of(CheckpointFiles files, PickledValue model) {
    int ranks = Math.max(1, files.optimizers().size());
    int pipeline = said(model, "pp_degree");
    int tensor = said(model, "tp_degree");
    if (ranks == 1) {
      return new ModelParallelism(1, 1, 1, Math.max(1, Math.max(tensor, inNames(files))));
    }
    int ofLayers =
        files.layers().stream()
            .mapToInt(layer -> CheckpointFiles.LayerName.parse(layer.name()).tensorRank() + 1)
            .max()
            .orElse(0);
    if (ofLayers > 0 && ranks % ofLayers == 0) {
      return ModelParallelism.of(ranks / ofLayers, ofLayers);
    }
    return pipeline * tensor == ranks
        ? ModelParallelism.of(pipeline, tensor)
        : ModelParallelism.ofRanks(ranks);
  }

  private static int said(PickledValue model, String key) {
    return Optional.of(model)
        .filter(PickledValue::isDict)
        .flatMap(root -> root.findPresent("checkpoint_parallel_dimensions"))
        .filter(PickledValue::isDict)
        .flatMap(dimensions -> dimensions.findPresent(key))
        .map(PickledValue::asInt)
        .orElse(ModelParallelism.UNKNOWN);
  }

  /** The ranks of a sequence, which old names call model-parallel ({@link Discovery}). */
  private static int inNames(CheckpointFiles files) {
    return files.optimizers().values().stream()
        .flatMap(ranks -> ranks.values().stream())
        .map(FileStat::name)
        .mapToInt(name -> CheckpointFiles.mpRankOf(name).orElse(0) + 1)
        .max()
        .orElse(1);
  }
}
