package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.OptimizerValues;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.List;

/** How an optimizer file of ZeRO-3 is read: the first sub-group speaks for its param group. */
record ShardedValues() implements OptimizerValues.Reading {
  @Override
  public OptimizerValues read(TorchFile file, ZeroLayout source) {
    ShardedLayout layout = ShardedLayout.of(source);
    ShardedStates states = new ShardedStates(PickledValue.root(file.path(), file.parse().root()));
    List<OptimizerValues.Group> groups = new ArrayList<>();
    for (int g = 0; g < states.paramGroups().items().size(); g++) {
      int first = layout.bucketsOf(g).get(0);
      groups.add(
          new OptimizerValues.Group(
              unlabelled(states.flatGroups().items().get(first).node()),
              states.state(first).map(PickledValue::node),
              states.partitions(layout, first).keySet().stream()
                  .filter(name -> !name.equals(States.MASTER))
                  .toList()));
    }
    return new OptimizerValues(states.root(), states.stateDict(), states.optimizer(), groups);
  }

  /** The tensor without the attributes that ZeRO-3 gives it. */
  private static PyObject unlabelled(PyObject tensor) {
    PyInstance made = (PyInstance) tensor;
    return ShardedStates.attributes(tensor).isPresent()
        ? PyInstance.reduce(
            ((PyTuple) made.args()).get(0), (PyTuple) ((PyTuple) made.args()).get(2))
        : tensor;
  }
}
