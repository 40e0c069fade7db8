package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Function;

/** How an optimizer file of ZeRO-1 or 2 is read. */
record FlatValues() implements OptimizerValues.Reading {
  @Override
  public OptimizerValues read(TorchFile file, List<Map<String, DType>> partitioned) {
    OptimizerStates states =
        new OptimizerStates(PickledValue.root(file.path(), file.parse().root()));
    List<OptimizerValues.Group> groups = new ArrayList<>();
    for (int g = 0; g < states.baseState().get("param_groups").items().size(); g++) {
      Optional<PyObject> state = states.stateNode(g);
      List<String> cut = new ArrayList<>();
      if (state.isPresent()) {
        PickledValue value = new PickledValue(file.path(), "", state.get());
        partitioned.get(g).keySet().stream()
            .filter(name -> !name.equals(States.MASTER))
            .filter(name -> StateTensors.find(value, name).isPresent())
            .forEach(cut::add);
      }
      groups.add(new OptimizerValues.Group(states.masters().get(g).node(), state, cut));
    }
    return new OptimizerValues(states.root(), states.stateDict(), states.baseState(), groups);
  }

  @Override
  public List<OptimizerValues.Shared> shared(PickledValue root) {
    OptimizerStates states = new OptimizerStates(root);
    List<OptimizerValues.Shared> groups = new ArrayList<>();
    for (int g = 0; g < states.groups(); g++) {
      Optional<PickledValue> options =
          states.isElastic()
              ? Optional.empty()
              : Optional.of(states.baseState().get("param_groups").items().get(g));
      groups.add(
          new OptimizerValues.Shared(
              options,
              states
                  .stateNode(g)
                  .map(node -> new PickledValue(root.file(), "the optimizer's state", node))
                  .stream()
                  .toList()));
    }
    return groups;
  }

  @Override
  public void requireShared(
      TrainingState state,
      ModelPart part,
      Target target,
      Function<String, RefusedException> refusal) {
    OptimizerStates states = new OptimizerStates(part.optimizers().get(0).root());
    if (states.isElastic()) {
      throw refusal.apply(
          "it was saved with elastic_checkpoint, which neither ZeRO-3 nor BF16_Optimizer has");
    }
    MuonMomentum.requireNoneToConvert(states);
  }

  @Override
  public void requireAlike(PlanDraft draft, List<ModelPart> ranks, List<ParameterSet> sets)
      throws IOException {
    SharedStates.requireAlike(
        draft,
        FlatLayout.of(sets.get(0).layout()),
        ranks.stream().map(rank -> rank.optimizers().get(0)).toList());
  }
}
