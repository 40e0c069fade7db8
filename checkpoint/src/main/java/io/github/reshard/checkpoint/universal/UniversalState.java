package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.pickle.GraphCopy;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.zero12.OptimizerStates;
import io.github.reshard.checkpoint.zero12.ParameterAlignments;
import io.github.reshard.checkpoint.zero12.Shard;
import io.github.reshard.checkpoint.zero3.ShardedLayout;
import io.github.reshard.checkpoint.zero3.ShardedStates;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * What all parameters of a mp rank share, for {@code zero/optimizer_state.pt} and the {@code
 * step.pt} of each parameter. The former has the keys that a run at stage 1 or 2 reads ({@code
 * param_groups}; DeepSpeed 0.19.8, runtime/base_optimizer.py) and those that one at stage 3 does
 * ({@code optimizer_state_dict}; runtime/zero/stage3.py), and no shard.
 *
 * @param source index of the file that says it
 * @param file the file
 * @param stateDict the optimizer's own {@code state_dict()} in it
 * @param version the node of {@code ds_version}, if it has one
 * @param common for each group what of its state is not partitioned
 * @param paramGroups the hyper-parameters, if they are saved; {@code elastic_checkpoint} leaves
 *     them out
 */
record UniversalState(
    int source,
    TorchFile file,
    PickledValue stateDict,
    Optional<PyObject> version,
    List<PyDict> common,
    Optional<PickledValue> paramGroups) {
  static final String PARAM_GROUPS = "param_groups";
  static final String INNER = "optimizer_state_dict";
  static final String STATE = "state";
  private static final String PARAMS = "params";
  private static final String VERSION = "ds_version";

  /** What is of one rank, or of the partitions. */
  private static final Set<String> LEFT_OUT =
      Set.of(
          "base_optimizer_state",
          "single_partition_of_fp32_groups",
          OptimizerStates.PARAM_SLICE_MAPPINGS,
          ParameterAlignments.KEY,
          OptimizerFile.FLAT_GROUPS,
          INNER);

  /**
   * Of a shard of ZeRO-1 or 2.
   *
   * @param states for each group the partitioned states
   */
  static UniversalState of(Shard shard, List<Map<String, DType>> states) {
    OptimizerStates optimizer =
        new OptimizerStates(PickledValue.root(shard.file().path(), shard.file().parse().root()));
    List<PyDict> common = new ArrayList<>();
    for (int g = 0; g < states.size(); g++) {
      common.add(common(shard.file().path(), g, optimizer.stateNode(g), states.get(g).keySet()));
    }
    return new UniversalState(
        shard.source(),
        shard.file(),
        optimizer.stateDict(),
        version(optimizer.stateDict(), optimizer.root()),
        common,
        optimizer.isElastic()
            ? Optional.empty()
            : Optional.of(optimizer.baseState().get(PARAM_GROUPS)));
  }

  /**
   * Of a shard of ZeRO-3.
   *
   * @param states for each group the partitioned states
   * @param whole how the parameters lie on one rank, whose sub-groups are named
   */
  static UniversalState of(
      ReadFile shard, ShardedLayout source, ShardedLayout whole, List<Map<String, DType>> states) {
    ShardedStates optimizer =
        new ShardedStates(PickledValue.root(shard.file().path(), shard.file().parse().root()));
    List<PickledValue> groups = optimizer.paramGroups().items();
    List<PyDict> common = new ArrayList<>();
    for (int g = 0; g < groups.size(); g++) {
      List<Integer> buckets = source.bucketsOf(g);
      common.add(
          common(
              shard.file().path(),
              g,
              buckets.isEmpty()
                  ? Optional.empty()
                  : optimizer.state(buckets.get(0)).map(PickledValue::node),
              g < states.size() ? states.get(g).keySet() : Set.of()));
      List<PyObject> params = ((PyList) groups.get(g).get(PARAMS).node()).items();
      params.clear();
      whole.bucketsOf(g).forEach(bucket -> params.add(PyInt.of(bucket)));
    }
    return new UniversalState(
        shard.source(),
        shard.file(),
        optimizer.stateDict(),
        version(optimizer.stateDict(), optimizer.root()),
        common,
        Optional.of(optimizer.paramGroups()));
  }

  private static Optional<PyObject> version(PickledValue stateDict, PickledValue root) {
    return stateDict
        .findPresent(VERSION)
        .or(() -> root.findPresent(VERSION))
        .map(PickledValue::node);
  }

  private static PyDict common(
      String file, int group, Optional<PyObject> state, Set<String> partitioned) {
    PyDict common = new PyDict();
    if (state.isEmpty()) {
      return common;
    }
    PickledValue value = new PickledValue(file, "state[" + group + "]", state.get());
    for (StateTensors.Named tensor : StateTensors.in(value)) {
      if (partitioned.contains(tensor.name()) && !tensor.isOutermost()) {
        throw tensor
            .value()
            .refused(
                "a Universal Checkpoint has a file for each state of a parameter, and no place for"
                    + " one within another.");
      }
    }
    for (PyEntries.Entry entry : value.entries()) {
      if (!(entry.key() instanceof PyStr key && partitioned.contains(key.value()))) {
        common.entries().add(entry.key(), entry.value());
      }
    }
    return common;
  }

  /** The step of {@code group}, if its optimizer counts it there. */
  Optional<PyObject> step(int group) {
    return Optional.ofNullable(common.get(group).get(UniversalFiles.STEP));
  }

  /** What {@code step.pt} of each parameter of {@code group} says. */
  Optional<Rewritten> stepFile(int group) {
    return step(group).map(step -> StorageList.of(file, GraphCopy.of(step), Map.of()));
  }

  /** What {@code optimizer_state.pt} says. */
  Rewritten optimizerFile() {
    PyDict made = new PyDict();
    for (PyEntries.Entry entry : stateDict.entries()) {
      String key = entry.key() instanceof PyStr name ? name.value() : "";
      if (key.equals(OptimizerStates.GROUP_PADDINGS)) {
        made.entries().add(entry.key(), numbers(entry.value(), 0));
      } else if (key.equals(OptimizerFile.PARTITION_COUNT)) {
        made.entries().add(entry.key(), numbers(entry.value(), 1));
      } else if (!LEFT_OUT.contains(key) && !key.equals(PARAM_GROUPS)) {
        made.entries().add(entry.key(), entry.value());
      }
    }
    if (made.get(VERSION) == null && version.isPresent()) {
      made.entries().add(new PyStr(VERSION), version.get());
    }
    PyObject groups = paramGroups.map(PickledValue::node).orElseGet(this::namesOnly);
    PyDict states = new PyDict();
    for (int g = 0; g < common.size(); g++) {
      states.entries().add(PyInt.of(g), common.get(g));
    }
    PyDict inner = new PyDict();
    inner.entries().add(new PyStr(STATE), states);
    inner.entries().add(new PyStr(PARAM_GROUPS), groups);
    made.entries().add(new PyStr(PARAM_GROUPS), groups);
    made.entries().add(new PyStr(INNER), inner);
    return StorageList.of(file, GraphCopy.of(made), Map.of());
  }

  /** The same number for each group, or once where the file has one for all. */
  private static PyObject numbers(PyObject saved, long value) {
    if (!(saved instanceof PyList list)) {
      return PyInt.of(value);
    }
    return PyList.of(list.items().stream().map(group -> PyInt.of(value)).toList());
  }

  /** Groups that say nothing, so that those of the run that loads keep what they have. */
  private PyList namesOnly() {
    PyList groups = new PyList();
    for (int g = 0; g < common.size(); g++) {
      PyDict group = new PyDict();
      group.entries().add(new PyStr(PARAMS), PyList.of(List.of(PyInt.of(g))));
      groups.items().add(group);
    }
    return groups;
  }
}
