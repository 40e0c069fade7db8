package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.function.IntFunction;
import java.util.function.IntSupplier;

/**
 * {@code param_alignment_paddings} of ZeRO-1 and 2: for each group and each of its parameters, in
 * the order of the flat buffer, the elements of padding behind it. With {@code
 * zero_optimization.parameter_alignment} every parameter begins at a multiple of 16 bytes of the
 * module's type; without, all are 0. Recorded since DeepSpeed 0.19.7, by DeepSpeedZeroOptimizer
 * only (runtime/zero/stage_1_and_2.py).
 */
public final class ParameterAlignments {
  public static final String KEY = "param_alignment_paddings";

  private static final int ALIGNED_BYTES = 16;

  /** What 16 bytes may be, in elements of 16 to 1 bytes. */
  private static final List<Integer> ALIGNMENTS = List.of(1, 2, 4, 8, 16);

  private ParameterAlignments() {}

  /** The alignment of parameters of this type where they are aligned, in elements. */
  public static int of(DType dtype) {
    return Math.max(1, ALIGNED_BYTES / dtype.bytes());
  }

  /** What {@code states} records; none if it does not. */
  static Optional<List<List<Long>>> recorded(OptimizerStates states) {
    return states
        .stateDict()
        .findPresent(KEY)
        .map(
            all ->
                all.items().stream()
                    .map(group -> group.items().stream().map(PickledValue::asLong).toList())
                    .toList());
  }

  /**
   * The groups with the alignments that the first shard records; that the others record the same is
   * for {@link FlatShards} to check.
   *
   * @param configured whether {@code parameter_alignment} is on, if that is known
   * @param types the module's type of a group's parameters, if it is known
   * @param targetWorldSize asked where the alignment matters
   * @throws io.github.reshard.checkpoint.RefusedException if no alignment gives what is recorded,
   *     or several do that differ at the target's size
   */
  static ParamGroups read(
      ParamGroups groups,
      List<Shard> shards,
      Optional<Boolean> configured,
      IntFunction<Optional<DType>> types,
      IntSupplier targetWorldSize) {
    OptimizerStates states = shards.get(0).states();
    int n = groups.groups().size();
    Optional<List<List<Long>>> recorded = recorded(states);
    if (recorded.isEmpty() || recorded.get().size() != n) {
      return groups; // Another number of groups is refused where all of a shard is looked at.
    }
    List<List<Integer>> fitting = new ArrayList<>();
    for (int g = 0; g < n; g++) {
      List<Integer> ofGroup = new ArrayList<>();
      for (int alignment : ALIGNMENTS) {
        if (paddings(groups, g, alignment, shards.size()).equals(recorded.get().get(g))) {
          ofGroup.add(alignment);
        }
      }
      if (ofGroup.isEmpty()) {
        throw paddingsOf(states, g)
            .refused(
                "expected the padding that lets each parameter begin at a multiple of 16 bytes, such as %s for 2 bytes an element, or none; found %s. The files do not belong together."
                    .formatted(paddings(groups, g, 8, shards.size()), recorded.get().get(g)));
      }
      fitting.add(ofGroup);
    }
    boolean on = fitting.stream().anyMatch(of -> !of.contains(1)) || configured.orElse(false);
    boolean known =
        configured.isPresent()
            || fitting.stream().anyMatch(of -> !of.contains(1) || of.size() == 1);
    List<Integer> chosen = new ArrayList<>();
    for (int g = 0; g < n; g++) {
      List<Integer> left = left(fitting.get(g), on, known, types.apply(g));
      for (int other : left.subList(1, left.size())) {
        int ranks = targetWorldSize.getAsInt();
        if (!paddings(groups, g, other, ranks).equals(paddings(groups, g, left.get(0), ranks))) {
          throw paddingsOf(states, g)
              .refused(
                  "at %d ranks round_robin_gradients puts the parameters in another order, and neither the files nor a configuration tell whether parameter_alignment is on and for which type. Save the checkpoint from a run whose config is given as a dict, or keep the number of ranks."
                      .formatted(ranks));
        }
      }
      chosen.add(left.get(0));
    }
    return groups.withPaddings(new Paddings(groups.paddings().wholeOnLastRank(), chosen));
  }

  private static PickledValue paddingsOf(OptimizerStates states, int group) {
    return states.stateDict().get(KEY).items().get(group);
  }

  private static List<Integer> left(
      List<Integer> fitting, boolean on, boolean known, Optional<DType> type) {
    List<Integer> left = new ArrayList<>(fitting);
    if (known && !on && left.contains(1)) {
      return List.of(1);
    }
    if (type.isPresent()) {
      int ofType = of(type.get());
      if (known && on && left.contains(ofType)) {
        return List.of(ofType);
      }
      left.removeIf(alignment -> alignment != 1 && alignment != ofType && fitting.contains(1));
    }
    if (known && on && left.size() > 1) {
      left.remove((Integer) 1);
    }
    return left;
  }

  private static List<Long> paddings(ParamGroups groups, int group, int alignment, int worldSize) {
    int size = groups.groups().get(group).expertParallelSize();
    FlatLayout layout =
        groups
            .withPaddings(Paddings.USUAL.aligned(groups.groups().size(), alignment))
            .layout(worldSize, size, 0);
    return layout.alignmentPaddings(groups.indices(size).indexOf(group));
  }

  /**
   * Writes what a rank of the target records, if it records it.
   *
   * @param stateDict the optimizer's own, edited in place
   * @param ofGroups the paddings of each group
   * @param records whether the target does; a file that is written as saved is as it was
   */
  static void write(PickledValue stateDict, List<List<Long>> ofGroups, Optional<Boolean> records) {
    Optional<PickledValue> saved = stateDict.findPresent(KEY);
    List<PyEntries.Entry> entries = stateDict.entries().list();
    if (saved.isPresent() && !records.orElse(true)) {
      entries.removeIf(e -> e.value() == saved.get().node());
    } else if (saved.isPresent()) {
      for (int g = 0; g < ofGroups.size(); g++) {
        List<PyObject> items = ((PyList) saved.get().items().get(g).node()).items();
        items.clear();
        ofGroups.get(g).forEach(padding -> items.add(PyInt.of(padding)));
      }
    } else if (records.orElse(false)) {
      int place = 0;
      while (place < entries.size()
          && !(entries.get(place).key() instanceof PyStr key
              && key.value().equals(OptimizerStates.GROUP_PADDINGS))) {
        place++;
      }
      entries.add(
          Math.min(entries.size(), place + 1), new PyEntries.Entry(new PyStr(KEY), node(ofGroups)));
    }
  }

  /** The lists as they are pickled. */
  public static PyList node(List<List<Long>> ofGroups) {
    PyList all = new PyList();
    for (List<Long> ofGroup : ofGroups) {
      PyList group = new PyList();
      ofGroup.forEach(padding -> group.items().add(PyInt.of(padding)));
      all.items().add(group);
    }
    return all;
  }
}
