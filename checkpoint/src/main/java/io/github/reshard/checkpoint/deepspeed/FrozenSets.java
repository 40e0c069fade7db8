package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.Addresses;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.WholeTensors;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;

/**
 * The frozen weights of a model-parallel rank as a set of parameters of its own: in pieces as
 * ZeRO-3 saves them, or whole in the model file.
 */
public final class FrozenSets {
  private FrozenSets() {}

  /**
   * Those of each of several tensor-parallel ranks, or nothing.
   *
   * @throws RefusedException if it cannot be told which they are, or only some ranks have any
   */
  static List<ParameterSet> ofRanks(TrainingState state, List<ModelPart> ranks) {
    if (Conversions.hasLayers(state)) {
      return List.of(); // what is in the layers' files is not listed
    }
    List<ParameterSet> sets = new ArrayList<>();
    for (ModelPart rank : ranks) {
      Optional<ParameterSet> frozen = of(state, rank);
      requireShareable(rank, frozen);
      frozen.ifPresent(sets::add);
    }
    if (!sets.isEmpty() && sets.size() < ranks.size()) {
      throw new RefusedException(
          state.checkpoint(),
          "only %d of %d tensor-parallel ranks have frozen parameters. The files are of different runs."
              .formatted(sets.size(), ranks.size()));
    }
    return sets;
  }

  private static Optional<ParameterSet> of(TrainingState state, ModelPart part) {
    if (part.frozen().isPresent()) {
      return Optional.of(state.parameters().get(part.frozen().getAsInt()));
    }
    return isSharded(part) ? Optional.empty() : ofModule(state, part);
  }

  private static boolean isSharded(ModelPart part) {
    return new OptimizerFile(part.optimizers().get(0).root()).stage() == 3;
  }

  /** Those of a model file of ZeRO-1 or 2, which has them whole. */
  public static Optional<ParameterSet> ofModule(TrainingState state, ModelPart part) {
    ReadFile file = part.model().orElseThrow();
    Map<String, TensorNode> weights = ModuleParameters.of(new ModelStates(file.root())).frozen();
    if (weights.isEmpty()) {
      return Optional.empty();
    }
    List<Parameter> parameters = new ArrayList<>();
    weights.forEach(
        (name, weight) ->
            parameters.add(
                new Parameter(
                    name, Arrays.stream(weight.shape()).boxed().toList(), parameters.size())));
    ParameterSet set =
        ParameterSet.begin(part.mpRank(), ParamId.NO_EXPERT, new WholeTensors(parameters));
    SourceFile source = state.sources().get(file.source());
    int p = 0;
    for (Map.Entry<String, TensorNode> weight : weights.entrySet()) {
      String where = file.file().path() + ", module." + weight.getKey();
      if (!weight.getValue().isContiguous()) {
        throw new RefusedException(where, "the frozen weight is not contiguous.");
      }
      set.states().add(Map.of(States.FROZEN, weight.getValue().dtype()));
      set.weights().add(null);
      set.partitions()
          .put(
              new Partition(0, p++, States.FROZEN),
              Addresses.of(source, file.source(), file.file(), where, weight.getValue()));
    }
    return Optional.of(set.read());
  }

  /**
   * Checks that tensors of a model file are parameters or buffers, and that no frozen one is
   * quantized, since nothing says how tensor-parallel ranks share any other.
   *
   * @throws RefusedException if not
   */
  private static void requireShareable(ModelPart part, Optional<ParameterSet> frozen) {
    ReadFile file = part.model().orElseThrow();
    ModelStates model = new ModelStates(file.root());
    Optional<ModuleParameters> named =
        isSharded(part) ? Optional.empty() : Optional.of(ModuleParameters.of(model));
    Map<String, TensorNode> others = new TreeMap<>(model.module());
    others.keySet().removeAll(model.bufferNames());
    others
        .entrySet()
        .removeIf(
            tensor ->
                tensor.getValue().numel() == 0
                    || named.filter(of -> of.contains(tensor.getKey())).isPresent());
    if (!others.isEmpty()) {
      throw new RefusedException(
          file.file().path(),
          "%s are neither parameters nor buffers, so that how tensor-parallel ranks share them cannot be told. %s"
              .formatted(others.keySet(), TensorChange.AS_SAVED));
    }
    for (int p = 0; p < frozen.map(set -> set.states().size()).orElse(0); p++) {
      DType dtype = frozen.orElseThrow().states().get(p).get(States.FROZEN);
      if (!ModuleParameters.isFloating(dtype)) {
        throw new RefusedException(
            file.file().path(),
            "the frozen weight %s is of type %s, as quantized ones are, whose blocks cannot be cut. %s"
                .formatted(
                    frozen.orElseThrow().parameters().get(p).name(),
                    dtype.torchName(),
                    TensorChange.AS_SAVED));
      }
    }
  }
}
