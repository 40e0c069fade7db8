package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.stream.IntStream;

/**
 * Groups with padding between their parameters ({@link ParameterAlignments}) as shards alone tell
 * them. Their {@code param_slice_mappings} say where each parameter is, also under {@code
 * round_robin_gradients}, and list them in the original order (DeepSpeed 0.19.8,
 * utils/mixed_precision_linkage.py, {@code param_offsets}).
 */
public final class AlignedShards {
  private AlignedShards() {}

  /** Whether the shards record padding between the parameters of {@code group}. */
  static boolean hasGaps(List<Shard> shards, int group) {
    return ParameterAlignments.recorded(shards.get(0).states())
        .filter(all -> group < all.size())
        .map(all -> all.get(group).stream().anyMatch(padding -> padding != 0))
        .orElse(false);
  }

  private record Fragment(String name, long start, long elements, PickledValue value) {
    long end() {
      return start + elements;
    }
  }

  /**
   * The parameters of a group in the order of its flat buffer.
   *
   * @param sharing the shards of the ranks that share the group, in their order
   * @throws RefusedException if the fragments do not make up the group
   */
  static List<Parameter> parameters(List<Shard> sharing, int group) {
    OptimizerStates first = sharing.get(0).states();
    List<Long> paddings = ParameterAlignments.recorded(first).orElseThrow().get(group);
    long partition = partitionElements(first, group);
    List<Fragment> fragments = new ArrayList<>();
    for (int i = 0; i < sharing.size(); i++) {
      add(sharing.get(i).states(), group, i * partition, partition, fragments);
    }
    fragments.sort(Comparator.comparingLong(Fragment::start));
    List<Fragment> whole = new ArrayList<>();
    for (Fragment next : fragments) {
      Fragment last = whole.isEmpty() ? null : whole.get(whole.size() - 1);
      if (last != null && last.name().equals(next.name()) && last.end() == next.start()) {
        whole.set(
            whole.size() - 1,
            new Fragment(
                last.name(), last.start(), last.elements() + next.elements(), last.value()));
      } else {
        whole.add(next);
      }
    }
    Set<String> names = new HashSet<>();
    List<Parameter> parameters = new ArrayList<>();
    long expected = 0;
    for (Fragment fragment : whole) {
      int place = parameters.size();
      if (fragment.start() != expected || !names.add(fragment.name()) || place >= paddings.size()) {
        throw fragment
            .value()
            .refused(
                "expected the next parameter at element %d of param group %d by %s, found this one at %d. The shards are not those of all ranks of one run."
                    .formatted(expected, group, ParameterAlignments.KEY, fragment.start()));
      }
      parameters.add(new Parameter(fragment.name(), List.of(fragment.elements()), group));
      expected = fragment.end() + paddings.get(place);
    }
    if (parameters.size() != paddings.size()) {
      throw new RefusedException(
          sharing.get(0).file().path(),
          "%s has %d parameters in param group %d, %s has %d."
              .formatted(
                  ParameterAlignments.KEY,
                  paddings.size(),
                  group,
                  OptimizerStates.PARAM_SLICE_MAPPINGS,
                  parameters.size()));
    }
    return parameters;
  }

  /** The first rank's masters are cut by its own padding at most, whoever records it. */
  static long partitionElements(OptimizerStates first, int group) {
    List<OptimizerStates.GroupTensor> tensors = first.tensors(group);
    long masters = tensors.get(tensors.size() - 1).tensor().numel();
    return first.isBf16Optimizer()
        ? masters
        : masters + first.numbers(OptimizerStates.GROUP_PADDINGS).get(group);
  }

  private static void add(
      OptimizerStates states, int group, long from, long partition, List<Fragment> into) {
    PickledValue mapping =
        states.stateDict().get(OptimizerStates.PARAM_SLICE_MAPPINGS).items().get(group);
    for (PickledValue.Entry entry : mapping.children()) {
      PyObject fields =
          entry.value().node() instanceof PyInstance made ? made.state() : entry.value().node();
      PickledValue address = new PickledValue(entry.value().file(), entry.value().path(), fields);
      long start = address.get("start").asLong();
      long elements = address.get("numel").asLong();
      if (start < 0 || elements < 1 || start > partition - elements) {
        throw entry
            .value()
            .refused(
                "expected a fragment of the %d elements of a partition, found %d elements from %d."
                    .formatted(partition, elements, start));
      }
      into.add(new Fragment(entry.key(), from + start, elements, entry.value()));
    }
  }

  /**
   * The groups as they are if the run had {@code round_robin_gradients}: of those with gaps the
   * order of the flat buffer is known, and the original one follows from it.
   */
  static ParamGroups underRoundRobin(ParamGroups groups, int worldSize) {
    List<ParamGroups.Group> original = new ArrayList<>();
    for (int g = 0; g < groups.groups().size(); g++) {
      ParamGroups.Group group = groups.groups().get(g);
      int sharers = worldSize / Math.max(1, group.expertParallelSize());
      original.add(
          hasGaps(groups, g, worldSize)
              ? new ParamGroups.Group(
                  RoundRobin.undo(group.parameters(), sharers), group.expertParallelSize())
              : group);
    }
    return new ParamGroups(original, true, groups.dataFirst(), groups.paddings());
  }

  /** Whether the mappings of all groups say where the parameters are, as those with gaps do. */
  static boolean haveRightMappings(ParamGroups groups, int worldSize) {
    return IntStream.range(0, groups.groups().size()).allMatch(g -> hasGaps(groups, g, worldSize));
  }

  private static boolean hasGaps(ParamGroups groups, int g, int worldSize) {
    if (groups.paddings().alignment(g) == 1) {
      return false;
    }
    int size = groups.groups().get(g).expertParallelSize();
    FlatLayout layout = groups.layout(worldSize, size, 0);
    return layout.alignmentPaddings(groups.indices(size).indexOf(g)).stream()
        .anyMatch(padding -> padding > 0);
  }

  /**
   * Whether the run had {@code round_robin_gradients}, as far as groups with gaps tell: the shards
   * of each rank list its parameters in the original order, and that is nearly always the module's.
   *
   * @param plain the groups as they are without
   * @param module the names of the module's weights in its order; empty if they are not known
   */
  static Optional<Boolean> isRoundRobin(
      ParamGroups plain, List<Shard> shards, List<String> module) {
    ParamGroups robin = underRoundRobin(plain, shards.size());
    for (boolean byModule : new boolean[] {false, true}) {
      for (int g = 0; g < plain.groups().size(); g++) {
        if (hasGaps(plain, g, shards.size())) {
          boolean fitsPlain = fits(plain.groups().get(g), g, shards, byModule, module);
          boolean fitsRobin = fits(robin.groups().get(g), g, shards, byModule, module);
          if (fitsPlain != fitsRobin) {
            return Optional.of(fitsRobin);
          }
        }
      }
    }
    return Optional.empty();
  }

  private static boolean fits(
      ParamGroups.Group group, int g, List<Shard> shards, boolean byModule, List<String> module) {
    Map<String, Integer> places = new HashMap<>();
    group.parameters().forEach(parameter -> places.put(parameter.name(), places.size()));
    return byModule
        ? isAscending(module.stream().filter(places::containsKey).toList(), places)
        : shards.stream().allMatch(s -> isAscending(s.states().sliceNames(g), places));
  }

  private static boolean isAscending(List<String> names, Map<String, Integer> places) {
    int last = -1;
    for (String name : names) {
      if (places.get(name) < last) {
        return false;
      }
      last = places.get(name);
    }
    return true;
  }

  /** Whether {@code worldSize} ranks have the same order with and without round robin. */
  static boolean isOrderTheSame(ParamGroups plain, int sourceWorldSize, int worldSize) {
    ParamGroups robin = underRoundRobin(plain, sourceWorldSize);
    for (int g = 0; g < plain.groups().size(); g++) {
      if (hasGaps(plain, g, sourceWorldSize)
          && !flatNames(plain, g, worldSize).equals(flatNames(robin, g, worldSize))) {
        return false;
      }
    }
    return true;
  }

  private static List<String> flatNames(ParamGroups groups, int g, int worldSize) {
    int size = groups.groups().get(g).expertParallelSize();
    FlatLayout layout = groups.layout(worldSize, size, 0);
    return Arrays.stream(layout.flatOrder(groups.indices(size).indexOf(g)))
        .mapToObj(p -> layout.parameters().get(p).name())
        .toList();
  }

  /** Whether a group has padding between its parameters at the size of the source. */
  public static boolean haveGaps(ParamGroups groups, int worldSize) {
    return IntStream.range(0, groups.groups().size()).anyMatch(g -> hasGaps(groups, g, worldSize));
  }
}
