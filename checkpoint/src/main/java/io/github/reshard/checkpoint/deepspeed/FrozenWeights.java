package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.WholeTensors;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;

/**
 * Frozen parameters of a checkpoint of ZeRO-1 or 2, which has them whole in {@code module}, as one
 * of ZeRO-3 has them, which partitions them: for comparing the two.
 */
public final class FrozenWeights {
  private FrozenWeights() {}

  /** The names of the frozen parameters that {@code plan} partitions. */
  public static List<String> names(ReshardPlan plan) {
    return plan.models().stream()
        .filter(PartitionedModel::isFrozen)
        .flatMap(model -> model.parameters().stream())
        .map(Parameter::name)
        .toList();
  }

  /**
   * The plan of a checkpoint with the frozen parameters of another one, as far as they are in its
   * model files.
   *
   * @param plan of ZeRO-1 or 2; returned as it is if it is not
   * @param other the plan that says which they are
   * @param store where {@code plan}'s files are read from
   * @param files of {@code plan}
   */
  public static ReshardPlan added(
      ReshardPlan plan, ReshardPlan other, SourceStore store, CheckpointFiles files)
      throws IOException {
    List<PartitionedModel> models = new ArrayList<>(plan.models());
    for (PartitionedModel frozen : other.models()) {
      FileStat stat = files.models().get(frozen.mpRank());
      if (frozen.isFrozen() && stat != null) {
        ofModule(plan, frozen, store, stat).ifPresent(models::add);
      }
    }
    return plan.with(models);
  }

  private static Optional<PartitionedModel> ofModule(
      ReshardPlan plan, PartitionedModel frozen, SourceStore store, FileStat stat)
      throws IOException {
    TorchFile file;
    try (RangedFile open = store.open(stat)) {
      file = TorchFile.read(open);
    }
    int source = 0;
    while (!plan.sources().get(source).stat().path().equals(stat.path())) {
      source++;
    }
    Map<String, TensorNode> module =
        new ModelStates(PickledValue.root(file.path(), file.parse().root())).module();
    List<Parameter> parameters = new ArrayList<>();
    List<Map<String, DType>> states = new ArrayList<>();
    Map<Partition, Address> partitions = new HashMap<>();
    for (Parameter parameter : frozen.parameters()) {
      TensorNode weight = module.get(parameter.name());
      if (weight == null || weight.numel() == 0 || !weight.isContiguous()) {
        continue;
      }
      String where = file.path() + ", module." + parameter.name();
      weight.requireInBounds(where);
      StorageList.requireThere(file, weight.storage());
      int p = parameters.size();
      // Of its own shape: should that differ from the other's, so does the number of elements.
      parameters.add(
          new Parameter(parameter.name(), Arrays.stream(weight.shape()).boxed().toList(), p));
      states.add(Map.of(States.FROZEN, weight.dtype()));
      partitions.put(
          new Partition(0, p, States.FROZEN),
          address(plan.sources().get(source), source, file, weight));
    }
    if (parameters.isEmpty()) {
      return Optional.empty();
    }
    WholeTensors whole = new WholeTensors(parameters);
    return Optional.of(
        new PartitionedModel(
            frozen.mpRank(),
            ParamId.NO_EXPERT,
            whole,
            whole,
            states,
            partitions,
            new HashMap<>(),
            new ArrayList<>(Collections.nCopies(parameters.size(), (ModuleWeight) null))));
  }

  private static Address address(SourceFile source, int index, TorchFile file, TensorNode weight) {
    TorchFile.Entry entry = file.storage(weight.storageKey()).orElseThrow();
    for (int e = 0; e < source.entries().size(); e++) {
      if (Objects.equals(source.entries().get(e).name(), entry.name())) {
        return new Address(
            index, e, entry.payloadOffset() + weight.storageOffset() * weight.dtype().bytes());
      }
    }
    throw new IllegalStateException(entry.name() + " is not in the plan");
  }
}
