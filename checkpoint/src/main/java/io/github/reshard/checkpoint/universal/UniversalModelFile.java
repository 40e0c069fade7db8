package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * The model files of a Universal Checkpoint. A run at stage 1 or 2 looks for {@code
 * mp_rank_MM_model_states.pt}, one at stage 3 for {@code zero_pp_rank_0_mp_rank_MM_model_states.pt}
 * (DeepSpeed 0.19.8, runtime/engine.py, {@code _get_all_ckpt_names}), and neither loads the module
 * that is in it: so one of them has the weights, and the other one what ZeRO-3 leaves in their
 * place.
 */
final class UniversalModelFile {
  private static final String MODULE = "module";
  private static final String EMPTIED = "emptied ";

  private UniversalModelFile() {}

  static String flatName(int mpRank) {
    return "mp_rank_%02d_model_states.pt".formatted(mpRank);
  }

  static String shardedName(int mpRank) {
    return "zero_pp_rank_0_mp_rank_%02d_model_states.pt".formatted(mpRank);
  }

  /**
   * The same file without the module's weights; buffers stay.
   *
   * @param path of the file that {@code full} is made of, for messages
   * @param full edited in place
   */
  static Rewritten emptied(String path, Rewritten full) {
    Map<String, Rewritten.Storage> old = new HashMap<>();
    full.storages().forEach(storage -> old.put(storage.key(), storage));
    ModelStates model = new ModelStates(PickledValue.root(path, full.root()));
    Set<String> buffers = model.bufferNames();
    for (Map.Entry<String, TensorNode> entry : model.module().entrySet()) {
      TensorNode tensor = entry.getValue();
      if (!buffers.contains(entry.getKey())) {
        StorageKeys.move(tensor, EMPTIED + tensor.dtype(), 0);
        tensor.setGeometry(0, 0);
      }
    }
    if (model.root().findPresent(ModelStates.FROZEN_FRAGMENTS).isPresent()) {
      model.root().entries().replace(ModelStates.FROZEN_FRAGMENTS, PyNone.NONE);
    }
    List<Rewritten.Storage> storages = new ArrayList<>();
    StorageKeys.renumber(path, full.root())
        .forEach(
            (key, was) -> {
              Rewritten.Content content =
                  was.key().startsWith(EMPTIED)
                      ? new Rewritten.Content.Carried(was.key())
                      : old.get(was.key()).content();
              if (content instanceof Rewritten.Content.FlatWeights
                  || content instanceof Rewritten.Content.PartitionOf) {
                throw model
                    .root()
                    .get(MODULE)
                    .refused(
                        "its weights are in the file a second time, beside the module, so it cannot be made without them.");
              }
              storages.add(new Rewritten.Storage(key, was.bytes(), content));
            });
    return new Rewritten(full.root(), storages);
  }
}
