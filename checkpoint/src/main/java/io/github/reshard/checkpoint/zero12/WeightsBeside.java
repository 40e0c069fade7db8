package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.ExpertNames;
import io.github.reshard.checkpoint.deepspeed.MissingWeights;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Stream;

/** The weights that stand in files of their own: those of a pipeline's layers, and of experts. */
final class WeightsBeside {
  private final DeepSpeedReading reading;
  private final int mpRank;
  private final Map<String, ReadFile> layers;
  private final Map<String, ReadFile> experts;

  /**
   * @param mpRank whose weights
   * @param layers the files of layers by name
   * @param experts the files of experts by name
   */
  WeightsBeside(
      DeepSpeedReading reading,
      int mpRank,
      Map<String, ReadFile> layers,
      Map<String, ReadFile> experts) {
    this.reading = reading;
    this.mpRank = mpRank;
    this.layers = layers;
    this.experts = experts;
  }

  /** A tensor of a file. */
  private record Stored(ReadFile file, PickledValue value) {}

  /** Adds them to the sets of parameters. */
  void add(ModelStates model, FlatSets sets) {
    Map<String, Stored> ofLayers = layerWeights();
    Map<String, Stored> ofExperts = expertWeights();
    MissingWeights missing = new MissingWeights(model, !layers.isEmpty());
    for (int index : sets.all()) {
      ParameterSet set = reading.parameters().get(index);
      if (set.expertRank() == ParamId.NO_EXPERT) {
        addDense(set, ofLayers, missing);
      } else {
        addExperts(set, ofExperts, missing);
      }
    }
    missing.note().ifPresent(reading::note);
  }

  private void addDense(ParameterSet set, Map<String, Stored> ofLayers, MissingWeights missing) {
    for (int p = 0; p < set.parameters().size(); p++) {
      Parameter parameter = set.parameters().get(p);
      if (set.weights().get(p) != null) {
        missing.found(parameter);
        continue;
      }
      Stored own = ofLayers.get(parameter.name());
      List<Stored> stored = own == null ? tied(parameter, ofLayers, set) : List.of(own);
      if (stored.size() == 1) {
        set.weights().set(p, weight(stored.get(0), parameter));
        missing.found(parameter);
      } else if (stored.isEmpty() && MissingWeights.nameInTiedLayer(parameter.name()).isPresent()) {
        missing.tied(parameter);
      } else {
        missing.dense(parameter);
      }
    }
  }

  private void addExperts(ParameterSet set, Map<String, Stored> ofExperts, MissingWeights missing) {
    ExpertNames names = ExpertNames.of(set.parameters());
    for (Parameter parameter : set.parameters()) {
      String global = names.global(parameter.name(), set.expertRank());
      ModuleWeight weight = weight(ofExperts.get(global), parameter);
      set.weights().add(weight);
      if (weight == null) {
        missing.expert(global, parameter);
      } else {
        missing.found(parameter);
      }
    }
  }

  /**
   * A layer that stands in more than one place is {@code tied_modules.KEY}; its weights are in the
   * file of a layer that has no other trained parameters (DeepSpeed 0.19.6, runtime/pipe/module.py,
   * {@code _build}): those that may be it.
   */
  private static List<Stored> tied(
      Parameter parameter, Map<String, Stored> ofLayers, ParameterSet set) {
    Optional<String> inLayer = MissingWeights.nameInTiedLayer(parameter.name());
    if (inLayer.isEmpty()) {
      return List.of();
    }
    List<Stored> found = new ArrayList<>();
    ofLayers.forEach(
        (name, stored) -> {
          String layer = name.substring(0, name.indexOf('.') + 1);
          if (name.equals(layer + inLayer.get())
              && parameter.hasShape(stored.value().tensor().shape())
              && set.parameters().stream().noneMatch(p -> p.name().startsWith(layer))) {
            found.add(stored);
          }
        });
    return found;
  }

  private ModuleWeight weight(Stored stored, Parameter parameter) {
    if (stored == null) {
      return null;
    }
    TensorNode weight = stored.value().tensor();
    return new ModuleWeight(
        weight.dtype(),
        address(reading, stored.file(), stored.value().where(), parameter, weight),
        null);
  }

  /**
   * In pipeline runs a parameter {@code 3.fc.weight} is {@code fc.weight} in the file of layer 3
   * (DeepSpeed 0.19.6, runtime/pipe/module.py, {@code save_state_dict}).
   */
  private Map<String, Stored> layerWeights() {
    int tensorRanks =
        layers.keySet().stream()
            .mapToInt(name -> CheckpointFiles.LayerName.parse(name).tensorRank() + 1)
            .max()
            .orElse(1);
    Map<String, Stored> weights = new HashMap<>();
    layers.forEach(
        (name, file) -> {
          CheckpointFiles.LayerName layer = CheckpointFiles.LayerName.parse(name);
          if (layer.tensorRank() == mpRank % tensorRanks) {
            tensors(file)
                .forEach(
                    entry ->
                        weights.put(
                            layer.layer() + "." + entry.key(), new Stored(file, entry.value())));
          }
        });
    return weights;
  }

  /** The weights of all experts by their global names. */
  private Map<String, Stored> expertWeights() {
    Map<String, Stored> weights = new HashMap<>();
    experts.forEach(
        (name, file) -> {
          CheckpointFiles.ExpertName expert = CheckpointFiles.ExpertName.parse(name);
          if (expert != null && expert.mpRank() == mpRank) {
            tensors(file)
                .forEach(entry -> weights.put(entry.key(), new Stored(file, entry.value())));
          }
        });
    return weights;
  }

  private static Stream<PickledValue.Entry> tensors(ReadFile file) {
    return file.root().children().stream().filter(entry -> entry.value().asTensor().isPresent());
  }

  /** Where the weight of {@code parameter} begins. */
  static Address address(
      DeepSpeedReading reading, ReadFile in, String where, Parameter parameter, TensorNode weight) {
    if (!parameter.hasShape(weight.shape()) || !weight.isContiguous()) {
      throw new RefusedException(
          where,
          "the weight has shape %s, param_shapes says %s. The files do not belong together."
              .formatted(Arrays.toString(weight.shape()), parameter.shape()));
    }
    return reading.address(in.source(), in.file(), where, weight);
  }
}
