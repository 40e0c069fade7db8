package io.github.reshard.checkpoint.zero;

import io.github.reshard.checkpoint.pickle.PyStr;
import java.util.Optional;

/**
 * Muon updates whole matrices, and DeepSpeed keeps its momentum by partition or sub-group
 * (runtime/zero/stage3.py, {@code use_muon}); that a resharded run goes on alike is not proven.
 */
final class MuonCheckpoints {
  private MuonCheckpoints() {}

  static void requireNone(ModelStates model) {
    Optional<PickledValue> type =
        model
            .root()
            .findPresent("ds_config")
            .filter(PickledValue::isDict)
            .flatMap(config -> config.findPresent("optimizer"))
            .filter(PickledValue::isDict)
            .flatMap(optimizer -> optimizer.findPresent("type"));
    if (type.isPresent()
        && type.get().node() instanceof PyStr name
        && name.value().equalsIgnoreCase("muon")) {
      throw type.get()
          .refused(
              "checkpoints of the optimizer Muon are not supported: it updates whole matrices, and its momentum is kept by partition.");
    }
  }
}
