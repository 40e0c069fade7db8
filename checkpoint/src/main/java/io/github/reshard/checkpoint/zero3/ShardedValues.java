package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyTuple;
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

/** How an optimizer file of ZeRO-3 is read: the first sub-group speaks for its param group. */
record ShardedValues() implements OptimizerValues.Reading {
  @Override
  public OptimizerValues read(TorchFile file, List<Map<String, DType>> partitioned) {
    ShardedStates states = new ShardedStates(PickledValue.root(file.path(), file.parse().root()));
    List<OptimizerValues.Group> groups = new ArrayList<>();
    List<List<Integer>> subGroups = states.subGroups();
    for (int g = 0; g < subGroups.size(); g++) {
      if (subGroups.get(g).isEmpty()) {
        groups.add(new OptimizerValues.Group(PyNone.NONE, Optional.empty(), List.of()));
        continue;
      }
      int first = subGroups.get(g).get(0);
      Optional<PickledValue> state = states.state(first);
      List<String> cut =
          partitioned.get(g).keySet().stream()
              .filter(name -> !name.equals(States.MASTER))
              .filter(name -> state.isPresent())
              .filter(name -> StateTensors.find(state.orElseThrow(), name).isPresent())
              .toList();
      groups.add(
          new OptimizerValues.Group(
              unlabelled(states.flatGroups().items().get(first).node()),
              state.map(PickledValue::node),
              cut));
    }
    return new OptimizerValues(states.root(), states.stateDict(), states.optimizer(), groups);
  }

  @Override
  public List<OptimizerValues.Shared> shared(PickledValue root) {
    ShardedStates states = new ShardedStates(root);
    List<PickledValue> options = states.paramGroups().items();
    List<List<Integer>> subGroups = states.subGroups();
    List<OptimizerValues.Shared> groups = new ArrayList<>();
    for (int g = 0; g < options.size(); g++) {
      groups.add(
          new OptimizerValues.Shared(
              Optional.of(options.get(g)),
              subGroups.get(g).stream().map(states::state).flatMap(Optional::stream).toList()));
    }
    return groups;
  }

  @Override
  public void requireShared(
      TrainingState state,
      ModelPart part,
      Target target,
      Function<String, RefusedException> refusal)
      throws IOException {
    SubGroupStates.requireAgree(state, part, target.worldSize());
  }

  @Override
  public void requireAlike(PlanDraft draft, List<ModelPart> ranks, List<ParameterSet> sets)
      throws IOException {
    ShardedReplicas.requireAlike(draft, ranks, ShardedLayout.of(sets.get(0).layout()));
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
