package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ModuleParameters;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.pickle.DictBuilder;
import io.github.reshard.checkpoint.pickle.GraphCopy;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Turns files of ZeRO-1 into those of ZeRO-2 and the other way round (DeepSpeed 0.19.6, {@code
 * state_dict} of runtime/zero/stage_1_and_2.py and bf16_optimizer.py; {@code
 * _common_checkpoint_state} of runtime/engine.py).
 */
final class FlatStage {
  private FlatStage() {}

  /** Sets the stage of an optimizer file of ZeRO-1 or 2 to the other one of these. */
  static void set(OptimizerStates states, int stage) {
    DsConfig config = DsConfig.of(states.root());
    PickledValue old = states.stateDict();
    boolean bf16 = config.makesBf16Optimizer(stage);
    if (bf16 != states.isBf16Optimizer()) {
      DictBuilder made = new DictBuilder();
      OptimizerFile file = new OptimizerFile(states.root());
      if (!bf16) {
        file.takeScaling(made);
      }
      made.take(old.entries(), OptimizerStates.CLIP, config.gradientClipping())
          .take(old.entries(), OptimizerStates.BASE_STATE, PyNone.NONE)
          .take(old.entries(), OptimizerStates.MASTERS, PyNone.NONE);
      if (!bf16) {
        made.put(OptimizerFile.ZERO_STAGE, new OptimizerFile(states.root()).stageNode(stage));
      }
      Set<String> first =
          Set.of(
              OptimizerFile.LOSS,
              OptimizerFile.DYNAMIC,
              OptimizerFile.OVERFLOW,
              OptimizerStates.CLIP,
              OptimizerStates.BASE_STATE,
              OptimizerStates.MASTERS,
              OptimizerFile.ZERO_STAGE);
      List<PyEntries.Entry> all = made.dict().entries().list();
      for (PyEntries.Entry entry : old.entries()) {
        if (!(entry.key() instanceof PyStr key && first.contains(key.value()))) {
          all.add(entry);
        }
      }
      List<PyEntries.Entry> entries = old.entries().list();
      entries.clear();
      entries.addAll(all);
    } else if (!bf16 && states.stage() != stage) {
      old.entries()
          .replace(OptimizerFile.ZERO_STAGE, new OptimizerFile(states.root()).stageNode(stage));
    }
    config.setStage(stage);
  }

  /** Sets the stage of a model file of ZeRO-1 or 2 to the other one of these. */
  static void set(ModelStates model, int stage) {
    PickledValue root = model.root();
    if (stage == 1) {
      root.entries().replace(ModelStates.FROZEN_SHAPES, PyNone.NONE);
      root.entries().replace(ModelStates.FROZEN_FRAGMENTS, PyNone.NONE);
    } else if (root.findPresent(ModelStates.FROZEN_SHAPES).isEmpty()
        && ModuleParameters.savedAtStage1(model)) {
      PyInstance shapes = DictBuilder.orderedDict();
      PyInstance fragments = DictBuilder.orderedDict();
      for (Map.Entry<String, TensorNode> weight : ModuleParameters.of(model).frozen().entrySet()) {
        PyStr name = new PyStr(weight.getKey());
        shapes.dictItems().add(name, TensorNode.size(weight.getValue().shape()));
        fragments.dictItems().add(name, GraphCopy.of(weight.getValue().node()));
      }
      root.entries().replace(ModelStates.FROZEN_SHAPES, shapes);
      root.entries().replace(ModelStates.FROZEN_FRAGMENTS, fragments);
    }
    DsConfig.of(root).setStage(stage);
  }
}
