package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ModuleParameters;
import io.github.reshard.checkpoint.deepspeed.SavedOptimizer;
import io.github.reshard.checkpoint.deepspeed.TensorChange;
import io.github.reshard.checkpoint.deepspeed.UncutTensors;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import java.util.TreeMap;

/**
 * A training state of tensor-parallel ranks as one of a single rank: parameters are joined, and all
 * that is not cut has to be the same on every rank.
 */
final class JoinedRanks {
  private final TrainingState state;
  private final String instead;

  private JoinedRanks(TrainingState state, String instead) {
    this.state = state;
    this.instead = instead;
  }

  /**
   * Joins them.
   *
   * @param instead what to do if that is refused
   * @throws RefusedException if it cannot be told how a parameter is cut, or the ranks do not
   *     belong together
   */
  static TrainingState of(TrainingState state, String instead) throws IOException {
    return state.parts().size() == 1 ? state : new JoinedRanks(state, instead).joined();
  }

  private TrainingState joined() throws IOException {
    List<ModelPart> parts = state.parts();
    TensorChange.Joined joined = TensorChange.join(state, parts, instead);
    if (parts.stream().anyMatch(part -> part.frozen().isPresent())) {
      throw new RefusedException(
          state.checkpoint(),
          "its tensor-parallel ranks have frozen parameters in pieces, and how they are cut is not"
              + " known. "
              + instead);
    }
    UncutTensors.requireAlike(
        state,
        parts.stream().map(part -> part.model().orElseThrow()).toList(),
        this::uncut,
        instead);
    SavedOptimizer first = optimizer(parts.get(0));
    for (ModelPart part : parts.subList(1, parts.size())) {
      requireSame(first, optimizer(part));
    }
    ModelPart one = parts.get(0);
    return state.with(
        ModelParallelism.NONE,
        List.of(
            new ModelPart(
                0,
                one.model(),
                one.optimizers(),
                one.reading(),
                List.of(0),
                OptionalInt.empty(),
                Optional.empty())),
        List.of(joined.set()));
  }

  /** What of a module is no trained parameter, and no other name of one, by name. */
  private Map<String, TensorNode> uncut(ReadFile file) {
    Map<String, TensorNode> module = new ModelStates(file.root()).module();
    Map<String, TensorNode> uncut = new TreeMap<>(module);
    Set<String> places = new HashSet<>();
    for (Parameter parameter : state.trained(state.parts().get(0)).parameters()) {
      TensorNode weight = uncut.remove(parameter.name());
      if (weight != null && weight.numel() > 0) {
        places.add(ModuleParameters.place(weight));
      }
    }
    ModuleParameters.tied(new ModelStates(file.root())).keySet().forEach(uncut::remove);
    uncut.values().removeIf(tensor -> places.contains(ModuleParameters.place(tensor)));
    return uncut;
  }

  private SavedOptimizer optimizer(ModelPart part) throws IOException {
    return SavedOptimizer.of(
        state.with(state.parallelism().source(), List.of(part), state.parameters()));
  }

  private void requireSame(SavedOptimizer first, SavedOptimizer other) {
    for (int g = 0; g < Math.max(first.groups().size(), other.groups().size()); g++) {
      if (g >= first.groups().size() || g >= other.groups().size()) {
        throw refused(first, 0, "has %d".formatted(other.groups().size()));
      }
      SavedOptimizer.Group one = first.groups().get(g);
      SavedOptimizer.Group two = other.groups().get(g);
      if (!one.step().equals(two.step()) || !one.scalars().equals(two.scalars())) {
        throw refused(first, g, "has made other steps or keeps other numbers");
      }
      if (!one.options().keySet().equals(two.options().keySet())) {
        throw refused(first, g, "has the options " + two.options().keySet());
      }
      for (Map.Entry<String, PyObject> option : one.options().entrySet()) {
        Optional<String> difference =
            PyEquality.firstDifference(option.getValue(), two.options().get(option.getKey()));
        if (difference.isPresent()) {
          throw refused(first, g, "differs in " + option.getKey() + " " + difference.get());
        }
      }
    }
  }

  private RefusedException refused(SavedOptimizer first, int group, String problem) {
    return new RefusedException(
        first.groups().get(group).where(),
        "the optimizer of another tensor-parallel rank %s: these are files of different runs, or of different steps. %s"
            .formatted(problem, instead));
  }
}
