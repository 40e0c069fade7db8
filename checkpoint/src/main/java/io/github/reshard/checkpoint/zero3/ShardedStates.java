package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * What an optimizer file of ZeRO-3 says (DeepSpeed 0.19.6, runtime/zero/stage3.py, {@code
 * _rigid_state_dict}).
 *
 * @param root the pickled dict
 */
public record ShardedStates(PickledValue root) {
  static final String DS_ID = "ds_id";

  /** The optimizer's own {@code state_dict()}, in which the key of the wrapper is one as well. */
  public PickledValue stateDict() {
    return new OptimizerFile(root).stateDict();
  }

  int stage() {
    return new OptimizerFile(root).stage();
  }

  /** The inner optimizer's own {@code state_dict()}. */
  public PickledValue optimizer() {
    return stateDict().get(OptimizerFile.WRAPPER);
  }

  public PickledValue flatGroups() {
    return stateDict().get(OptimizerFile.FLAT_GROUPS);
  }

  public PickledValue paramGroups() {
    return optimizer().get("param_groups");
  }

  PickledValue state() {
    return optimizer().get("state");
  }

  /** The sub-groups of each param group. */
  public List<List<Integer>> subGroups() {
    List<List<Integer>> groups = new ArrayList<>();
    for (PickledValue group : paramGroups().items()) {
      groups.add(group.get("params").items().stream().map(PickledValue::asInt).toList());
    }
    return groups;
  }

  /** The optimizer's state of {@code bucket}: none if it keeps none. */
  public Optional<PickledValue> state(int bucket) {
    PyObject found = state().entries().get((long) bucket);
    return found == null || found == PyNone.NONE
        ? Optional.empty()
        : Optional.of(new PickledValue(root.file(), state().path() + "[" + bucket + "]", found));
  }

  /**
   * The partitioned tensors of {@code bucket} by state, the master weights last.
   *
   * @param layout how long they are
   */
  Map<String, PickledValue> partitions(ShardedLayout layout, int bucket) {
    Map<String, PickledValue> partitions = new LinkedHashMap<>();
    long elements = layout.bucketElements(bucket);
    state(bucket)
        .ifPresent(
            state -> {
              for (StateTensors.Named named : StateTensors.in(state)) {
                if (!isReplicated(layout, bucket, named.name(), named.tensor())) {
                  partitions.put(named.name(), required(named.value(), bucket, elements));
                }
              }
            });
    partitions.put(States.MASTER, required(flatGroups().items().get(bucket), bucket, elements));
    return partitions;
  }

  private static PickledValue required(PickledValue value, int bucket, long elements) {
    TensorNode tensor = value.tensor();
    if (tensor.shape().length == 1 && tensor.numel() == elements && tensor.isContiguous()) {
      if (!StateTensors.isNumber(tensor.dtype())) {
        throw value.refused(
            "is of type %s, in which quantised states are saved. State that is not one number for each weight is not supported."
                .formatted(tensor.dtype().torchName()));
      }
      return value;
    }
    if (tensor.numel() <= 1 && elements > 1) {
      throw value.refused(
          "expected the %d elements of sub-group %d, found a tensor of shape %s. The optimizer was offloaded to NVMe, whose files are not read: load the checkpoint once with offload_optimizer on cpu or without, and save it again."
              .formatted(elements, bucket, Arrays.toString(tensor.shape())));
    }
    throw value.refused(
        "expected the %d elements of sub-group %d, found a tensor of shape %s. State that is not one number for each weight is not supported."
            .formatted(elements, bucket, Arrays.toString(tensor.shape())));
  }

  /**
   * A tensor of one element is state of the whole sub-group, unless that has one element itself:
   * then the state of a longer sub-group tells.
   */
  private boolean isReplicated(ShardedLayout layout, int bucket, String key, TensorNode tensor) {
    if (tensor.shape().length == 0) {
      return true;
    }
    if (tensor.numel() != 1 || tensor.storageElements() != 1) {
      return false;
    }
    if (layout.bucketElements(bucket) != 1) {
      return !key.equals(States.MASTER) && isWhole(bucket, key, layout);
    }
    for (int b = 0; b < layout.buckets(); b++) {
      Optional<TensorNode> other =
          state(b).flatMap(s -> StateTensors.find(s, key)).flatMap(PickledValue::asTensor);
      if (layout.bucketElements(b) > 1 && other.isPresent()) {
        return other.get().numel() == 1;
      }
    }
    return false;
  }

  /** Whether another state of the sub-group has its full length: else all were offloaded. */
  private boolean isWhole(int bucket, String key, ShardedLayout layout) {
    return StateTensors.in(state(bucket).orElseThrow()).stream()
        .filter(named -> !named.name().equals(key))
        .map(StateTensors.Named::tensor)
        .anyMatch(tensor -> tensor.numel() == layout.bucketElements(bucket));
  }

  /** The attribute {@code ds_id} of each flat sub-group; empty if one has none. */
  public List<String> dsIds() {
    List<String> ids = new ArrayList<>();
    for (PickledValue flat : flatGroups().items()) {
      Optional<PyDict> attributes = attributes(flat.node());
      if (attributes.isEmpty() || !(attributes.get().get(DS_ID) instanceof PyStr id)) {
        return List.of();
      }
      ids.add(id.value());
    }
    return ids;
  }

  /** The attributes that a pickled tensor carries ({@code torch._tensor._rebuild_from_type_v2}). */
  static Optional<PyDict> attributes(PyObject tensor) {
    return tensor instanceof PyInstance made
            && made.isOf("torch._tensor", "_rebuild_from_type_v2")
            && made.args() instanceof PyTuple args
            && args.size() > 3
            && args.get(3) instanceof PyDict attributes
        ? Optional.of(attributes)
        : Optional.empty();
  }

  /**
   * Checks that the optimizer is not Muon.
   *
   * @param model what the model file says, if there is one
   * @throws RefusedException if it is: its momentum is kept by sub-group (runtime/zero/stage3.py,
   *     {@code _apply_distributed_muon_update}), which is not proven
   */
  public void requireNoMuon(Optional<PickledValue> model) {
    for (PickledValue group : paramGroups().items()) {
      if (group.findPresent("use_muon").map(PickledValue::isTrue).orElse(false)) {
        throw refusedMuon(group);
      }
    }
    model
        .filter(PickledValue::isDict)
        .filter(root -> DsConfig.ifStored(root).filter(DsConfig::usesMuon).isPresent())
        .ifPresent(
            root -> {
              throw refusedMuon(root);
            });
  }

  private static RefusedException refusedMuon(PickledValue where) {
    return where.refused(
        "checkpoints of the optimizer Muon are not supported at ZeRO-3, only at ZeRO-1 and 2: there its momentum is kept by sub-group.");
  }
}
