package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.GroupState;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.WholeParameters;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.IntFunction;

/**
 * The momentum of DeepSpeed's Muon in ZeRO-1 and 2. It updates whole matrices, so a rank keeps the
 * momentum of all of every parameter that its partition touches (runtime/zero/stage_1_and_2.py,
 * {@code get_flat_partition}; alike in DeepSpeed 0.18.9, 0.19.6 and 0.19.8), and none where it
 * touches no parameter. With an offloaded optimizer DeepSpeed before 0.19.7 keeps none, and 0.19.8
 * one number for each element of the partition, as of other states ({@code
 * _apply_muon_updates_cpu_offload}). Which of the two a file holds is told by the lengths.
 */
public final class MuonMomentum {
  /** The state's key in DeepSpeed's files, which SGD uses for its own momentum as well. */
  static final String STATE = "momentum_buffer";

  private static final int MOST_NAMED = 4;

  private MuonMomentum() {}

  /**
   * What one rank holds of a group's momentum.
   *
   * @param ref the group among the rank's partitioned models
   * @param value the tensor, or null if there is none
   */
  private record Held(Shard shard, int rank, FileGroup ref, PickledValue value) {
    TensorNode tensor() {
      return value.tensor();
    }

    long whole() {
      return new WholeParameters(ref.source()).elementsIn(rank, ref.group());
    }

    boolean isWhole() {
      return value == null ? whole() == 0 : whole() > 0 && tensor().numel() == whole();
    }

    boolean isPartition() {
      return value != null && tensor().numel() == ref.source().elementsIn(rank, ref.group());
    }
  }

  /** Whether {@code state} of {@code group} is Muon's momentum. */
  static boolean is(OptimizerStates states, int group, String state) {
    return state.equals(STATE) && states.usesMuon(group);
  }

  private static boolean isNamed(PickledValue root) {
    return DsConfig.ifStored(root).filter(DsConfig::usesMuon).isPresent();
  }

  /**
   * @throws RefusedException if a group uses Muon, whose momentum no other stage keeps alike
   */
  static void requireNoneToConvert(OptimizerStates states) {
    requireNone(
        states, "whose momentum each ZeRO stage keeps in its own way. Leave --targetStage out.");
  }

  /**
   * Checks that no param group is trained with Muon.
   *
   * @param because what is said of the optimizer
   * @throws RefusedException if a group uses Muon
   */
  public static void requireNone(OptimizerStates states, String because) {
    for (int g = 0; g < states.groups(); g++) {
      if (states.usesMuon(g)) {
        throw states
            .root()
            .refused("param group %d uses the optimizer Muon, %s".formatted(g, because));
      }
    }
  }

  /**
   * Notes where the momentum of every rank is, and whether it is whole.
   *
   * @param modelRoot what the model file says, or null if there is none
   * @param refs for each source rank the groups of its file
   * @param offloaded whether the configuration that the user gave offloads the optimizer, if any
   * @throws RefusedException if a rank holds another momentum than its partition asks for
   */
  public static void add(
      DeepSpeedReading reading,
      PickledValue modelRoot,
      List<Shard> shards,
      IntFunction<List<FileGroup>> refs,
      Optional<Boolean> offloaded) {
    OptimizerStates first = shards.get(0).states();
    if (first.isElastic() && modelRoot != null && isNamed(modelRoot)) {
      throw first
          .root()
          .refused(
              "elastic_checkpoint cuts the end off Muon's momentum, so it is not whole. Save the"
                  + " checkpoint without elastic_checkpoint.");
    }
    for (int g = 0; g < first.groups(); g++) {
      if (!first.usesMuon(g)) {
        continue;
      }
      List<Held> held = new ArrayList<>();
      for (int rank = 0; rank < shards.size(); rank++) {
        Shard shard = shards.get(rank);
        PickledValue momentum = shard.states().find(g, STATE).orElse(null);
        held.add(new Held(shard, rank, refs.apply(rank).get(g), momentum));
      }
      if (held.stream().anyMatch(h -> h.value() != null)) {
        add(reading, held, isWhole(g, held, modelRoot, offloaded));
      }
    }
  }

  private static boolean isWhole(
      int g, List<Held> held, PickledValue modelRoot, Optional<Boolean> offloaded) {
    boolean whole = held.stream().allMatch(Held::isWhole);
    boolean partition = held.stream().allMatch(Held::isPartition);
    if (!whole && !partition) {
      throw neither(g, held);
    }
    OptimizerStates states = held.get(0).shard().states();
    if (whole && states.isBf16Optimizer()) {
      throw held.get(0)
          .value()
          .refused(
              "is Muon's momentum of whole parameters in a file of BF16_Optimizer, which does not"
                  + " keep it so.");
    }
    if (whole && states.stateDict().findPresent(OptimizerStates.PARAM_SLICE_MAPPINGS).isEmpty()) {
      throw states
          .root()
          .refused(
              "has Muon's momentum but no %s, so which parameters the momentum is of is not known."
                  .formatted(OptimizerStates.PARAM_SLICE_MAPPINGS));
    }
    if (whole && partition) {
      return !isOffloaded(held.get(0), modelRoot, offloaded);
    }
    return whole;
  }

  /**
   * Whether the optimizer was offloaded, which tells the two kinds apart where their lengths do
   * not.
   */
  private static boolean isOffloaded(
      Held held, PickledValue modelRoot, Optional<Boolean> offloaded) {
    OptimizerStates states = held.shard().states();
    if (states.isBefore(0, 19, 7) || !held.tensor().storage().location().value().equals("cpu")) {
      return false;
    }
    Optional<DsConfig> config =
        modelRoot == null
            ? DsConfig.ifStored(states.root())
            : DsConfig.ifStored(modelRoot, states.root());
    return config
        .map(DsConfig::offloadsOptimizer)
        .or(() -> offloaded)
        .orElseThrow(
            () ->
                held.value()
                    .refused(
                        "of Muon may be that of whole parameters or, if the optimizer was offloaded, that of this rank's partition; both have %d elements here. Say --dsConfig=FILE, the configuration of the run."
                            .formatted(held.tensor().numel())));
  }

  private static RefusedException neither(int g, List<Held> held) {
    boolean mostlyWhole =
        held.stream().filter(Held::isWhole).count()
            >= held.stream().filter(Held::isPartition).count();
    Held odd =
        held.stream()
            .filter(h -> mostlyWhole ? !h.isWhole() : !h.isPartition())
            .findFirst()
            .orElseThrow();
    String found =
        odd.value() == null ? "none" : "a tensor of shape " + Arrays.toString(odd.tensor().shape());
    FlatLayout layout = odd.ref().source();
    List<Extent> touched = layout.extentsIn(odd.rank(), odd.ref().group());
    String names =
        String.join(
            ", ",
            touched.stream()
                .limit(MOST_NAMED)
                .map(extent -> layout.parameters().get(extent.parameter()).name())
                .toList());
    String problem =
        odd.whole() == 0
            ? "rank %d's partition of param group %d touches no parameter, so Muon keeps no %s; found %s. The files do not belong together."
                .formatted(odd.rank(), g, STATE, found)
            : "expected Muon's %s of rank %d, param group %d: %d elements, all of the %d parameters that the partition touches (%s%s), or with an offloaded optimizer the %d elements of the partition; found %s. The files do not belong together, or one is damaged."
                .formatted(
                    STATE,
                    odd.rank(),
                    g,
                    odd.whole(),
                    touched.size(),
                    names,
                    touched.size() > MOST_NAMED ? ", ..." : "",
                    layout.bucketElements(odd.ref().group()),
                    found);
    return new RefusedException(
        odd.value() == null ? odd.shard().file().path() : odd.value().where(), problem);
  }

  private static void add(DeepSpeedReading reading, List<Held> all, boolean whole) {
    DType dtype = null;
    for (Held held : all) {
      if (held.value() == null) {
        continue;
      }
      TensorNode tensor = held.tensor();
      dtype = dtype == null ? tensor.dtype() : dtype;
      if (tensor.shape().length != 1
          || !tensor.isContiguous()
          || !StateTensors.isNumber(tensor.dtype())
          || tensor.dtype() != dtype) {
        throw held.value()
            .refused(
                "expected the flat momentum of Muon in %s, found %s of shape %s."
                    .formatted(
                        dtype.torchName(),
                        tensor.dtype().torchName(),
                        Arrays.toString(tensor.shape())));
      }
      held.ref()
          .set()
          .partitions()
          .put(
              new Partition(held.rank(), held.ref().group(), STATE),
              reading.address(
                  held.shard().source(), held.shard().file(), held.value().where(), tensor));
    }
    for (Held held : all) {
      ParameterSet set = held.ref().set();
      int group = held.ref().group();
      if (!set.states().get(group).containsKey(STATE)) {
        Map<String, DType> states = new LinkedHashMap<>();
        states.put(STATE, dtype);
        states.putAll(set.states().get(group));
        set.states().set(group, states);
      }
      if (whole) {
        set.whole().add(new GroupState(group, STATE));
      }
    }
  }
}
