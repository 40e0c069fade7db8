package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.OptimizerValues;
import io.github.reshard.checkpoint.deepspeed.Replicated;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.List;

/** How an optimizer file of ZeRO-1 or 2 is read. */
public record FlatValues() implements OptimizerValues.Reading {
  @Override
  public OptimizerValues read(TorchFile file, ZeroLayout source) {
    OptimizerStates states =
        new OptimizerStates(PickledValue.root(file.path(), file.parse().root()));
    List<OptimizerValues.Group> groups = new ArrayList<>();
    for (int g = 0; g < states.baseState().get("param_groups").items().size(); g++) {
      PyObject master = null;
      List<String> cut = new ArrayList<>();
      for (OptimizerStates.GroupTensor part : states.tensors(g)) {
        if (part.state().equals(States.MASTER)) {
          master = part.value().node();
        } else if (!Replicated.isReplicated(part.tensor())) {
          cut.add(part.state());
        }
      }
      groups.add(new OptimizerValues.Group(master, states.stateNode(g), cut));
    }
    return new OptimizerValues(states.root(), states.stateDict(), states.baseState(), groups);
  }
}
