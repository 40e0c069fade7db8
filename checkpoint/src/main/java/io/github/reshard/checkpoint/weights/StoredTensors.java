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
  static PartitionedModel of(int mpRank, List<Stored> tensors) {
    List<Parameter> parameters = new ArrayList<>();
    List<Map<String, DType>> states = new ArrayList<>();
    Map<Partition, Address> sources = new HashMap<>();
    Map<Partition, Address> targets = new HashMap<>();
    Map<ParameterState, DType> casts = new HashMap<>();
    List<ModuleWeight> weights = new ArrayList<>();
    for (int p = 0; p < tensors.size(); p++) {
      PlannedTensor tensor = tensors.get(p).tensor();
      parameters.add(new Parameter(tensor.name(), tensor.shape(), p));
      states.add(Map.of(States.MODULE, tensor.from()));
      sources.put(new Partition(0, p, States.MODULE), tensors.get(p).from());
      targets.put(new Partition(0, p, States.MODULE), tensors.get(p).to().address());
      if (tensor.from() != tensor.to()) {
        casts.put(new ParameterState(p, States.MODULE), tensor.to());
      }
      weights.add(null);
    }
    return new PartitionedModel(
        mpRank,
        ParamId.NO_EXPERT,
        new WholeTensors(parameters),
        new WholeTensors(parameters),
        states,
        sources,
        targets,
        weights,
        new HashSet<>(),
        casts);
  }

  /** Tensors that are joined of the parts of all tensor-parallel ranks. */
  static PartitionedModel joined(List<Joined> joined) {
    int ranks = joined.get(0).from().addresses().size();
    List<Parameter> parameters = new ArrayList<>();
    List<List<LocalTensor>> locals = new ArrayList<>();
    List<List<Parameter>> ofRanks = new ArrayList<>();
    for (int rank = 0; rank < ranks; rank++) {
      locals.add(new ArrayList<>());
      ofRanks.add(new ArrayList<>());
    }
    List<Map<String, DType>> states = new ArrayList<>();
    Map<Partition, Address> sources = new HashMap<>();
    Map<Partition, Address> targets = new HashMap<>();
    Map<ParameterState, DType> casts = new HashMap<>();
    List<ModuleWeight> weights = new ArrayList<>();
    for (int p = 0; p < joined.size(); p++) {
      PlannedTensor tensor = joined.get(p).tensor();
      parameters.add(new Parameter(tensor.name(), tensor.shape(), p));
      states.add(Map.of(States.MODULE, tensor.from()));
      for (int rank = 0; rank < ranks; rank++) {
        LocalTensor local = joined.get(p).from().locals().get(rank);
        locals.get(rank).add(local);
        ofRanks.get(rank).add(new Parameter(tensor.name(), local.shape(), p));
        sources.put(
            new Partition(rank, p, States.MODULE), joined.get(p).from().addresses().get(rank));
      }
      targets.put(new Partition(0, p, States.MODULE), joined.get(p).to().address());
      if (tensor.from() != tensor.to()) {
        casts.put(new ParameterState(p, States.MODULE), tensor.to());
      }
      weights.add(null);
    }
    return new PartitionedModel(
        0,
        ParamId.NO_EXPERT,
        new TensorParallelLayout(
            parameters, locals, ofRanks.stream().map(WholeTensors::new).toList()),
        new WholeTensors(parameters),
        states,
        sources,
        targets,
        weights,
        new HashSet<>(),
        casts);
  }
}
