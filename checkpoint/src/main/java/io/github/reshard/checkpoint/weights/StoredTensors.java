package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.ParameterState;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.TensorParallelLayout;
import io.github.reshard.checkpoint.state.WholeTensors;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.weights.PlannedTensor.Origin;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;

/** Tensors that are no states of an optimizer, as models of which nothing is partitioned. */
final class StoredTensors {
  private StoredTensors() {}

  /** Where a state of a parameter goes. */
  record Written(Address address, DType dtype) {}

  /** A tensor whose parts lie in the files of several ranks. */
  record Joined(PlannedTensor tensor, Origin.Parts from, Written to) {}

  /** A tensor of a file that is written. */
  record Stored(PlannedTensor tensor, Address from, Written to) {}

  /** Tensors of the files of one model-parallel rank. */
  static PartitionedModel of(int mpRank, List<Stored> stored) {
    Map<Partition, Address> sources = new HashMap<>();
    for (int p = 0; p < stored.size(); p++) {
      sources.put(new Partition(0, p, States.MODULE), stored.get(p).from());
    }
    List<PlannedTensor> tensors = stored.stream().map(Stored::tensor).toList();
    return model(
        mpRank,
        new WholeTensors(parameters(tensors)),
        sources,
        tensors,
        stored.stream().map(Stored::to).toList());
  }

  /** Tensors that are joined of the parts of all tensor-parallel ranks. */
  static PartitionedModel joined(List<Joined> joined) {
    int ranks = joined.get(0).from().addresses().size();
    List<PlannedTensor> tensors = joined.stream().map(Joined::tensor).toList();
    List<List<LocalTensor>> locals = new ArrayList<>();
    List<WholeTensors> ofRanks = new ArrayList<>();
    Map<Partition, Address> sources = new HashMap<>();
    for (int rank = 0; rank < ranks; rank++) {
      List<LocalTensor> ofRank = new ArrayList<>();
      List<Parameter> parameters = new ArrayList<>();
      for (int p = 0; p < joined.size(); p++) {
        Origin.Parts from = joined.get(p).from();
        ofRank.add(from.locals().get(rank));
        parameters.add(new Parameter(tensors.get(p).name(), ofRank.get(p).shape(), p));
        sources.put(new Partition(rank, p, States.MODULE), from.addresses().get(rank));
      }
      locals.add(ofRank);
      ofRanks.add(new WholeTensors(parameters));
    }
    return model(
        0,
        new TensorParallelLayout(parameters(tensors), locals, ofRanks),
        sources,
        tensors,
        joined.stream().map(Joined::to).toList());
  }

  private static List<Parameter> parameters(List<PlannedTensor> tensors) {
    List<Parameter> parameters = new ArrayList<>();
    for (int p = 0; p < tensors.size(); p++) {
      parameters.add(new Parameter(tensors.get(p).name(), tensors.get(p).shape(), p));
    }
    return parameters;
  }

  private static PartitionedModel model(
      int mpRank,
      ZeroLayout source,
      Map<Partition, Address> sources,
      List<PlannedTensor> tensors,
      List<Written> to) {
    List<Map<String, DType>> states = new ArrayList<>();
    Map<Partition, Address> targets = new HashMap<>();
    Map<ParameterState, DType> casts = new HashMap<>();
    List<ModuleWeight> weights = new ArrayList<>();
    for (int p = 0; p < tensors.size(); p++) {
      PlannedTensor tensor = tensors.get(p);
      states.add(Map.of(States.MODULE, tensor.from()));
      targets.put(new Partition(0, p, States.MODULE), to.get(p).address());
      if (tensor.from() != tensor.to()) {
        casts.put(new ParameterState(p, States.MODULE), tensor.to());
      }
      weights.add(null);
    }
    return new PartitionedModel(
        mpRank,
        ParamId.NO_EXPERT,
        source,
        new WholeTensors(source.parameters()),
        states,
        sources,
        targets,
        weights,
        new HashSet<>(),
        casts);
  }
}
