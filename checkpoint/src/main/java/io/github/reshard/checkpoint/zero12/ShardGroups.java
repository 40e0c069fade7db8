package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.stream.IntStream;

/**
 * The param groups of ZeRO-1 and 2 as the shards alone tell them: {@code param_slice_mappings} have
 * the names in the order in which the optimizer was given the parameters, and a parameter has as
 * many elements as its fragments together. Shapes are not known; a parameter is a row of elements.
 */
public final class ShardGroups {
  private ShardGroups() {}

  /**
   * The groups.
   *
   * @param shards one for each of the ranks
   * @throws RefusedException if the shards contradict each other
   */
  public static ParamGroups of(List<Shard> shards) {
    OptimizerStates first = shards.get(0).states();
    requireSameGroups(shards);
    RefusedException refused = null;
    // Nothing in a shard says which ranks have the same experts; only one reading fits together.
    for (boolean dataFirst : new boolean[] {false, true}) {
      List<ParamGroups.Group> groups = new ArrayList<>();
      try {
        for (int g = 0; g < first.groups(); g++) {
          groups.add(
              new ParamGroups.Group(
                  parameters(shards, g, first.expertParallelSize(g), dataFirst),
                  first.expertParallelSize(g)));
        }
        return new ParamGroups(groups, false, dataFirst);
      } catch (RefusedException e) {
        refused = refused == null ? e : refused;
      }
    }
    throw refused;
  }

  static void requireSameGroups(List<Shard> shards) {
    List<Long> counts = shards.get(0).states().partitionCounts();
    for (Shard shard : shards) {
      if (!shard.states().partitionCounts().equals(counts)) {
        throw new RefusedException(
            shard.file().path(),
            "partition_count is %s, in %s it is %s. The shards are of different runs."
                .formatted(shard.states().partitionCounts(), shards.get(0).file().path(), counts));
      }
    }
  }

  /**
   * The parameters of {@code group}, each a row of elements, if its mappings say where they are.
   *
   * @throws RefusedException if they do not fit together
   */
  static List<Parameter> parameters(
      List<Shard> shards, int group, int expertParallelSize, boolean dataFirst) {
    int worldSize = shards.size();
    long count = shards.get(0).states().partitionCounts().get(group);
    int sharers = worldSize / Math.max(1, expertParallelSize);
    if (count != sharers || worldSize % Math.max(1, expertParallelSize) != 0) {
      throw new RefusedException(
          shards.get(0).file().path(),
          "partition_count of param group %d is %d, expected %d for %d ranks%s."
              .formatted(
                  group,
                  count,
                  sharers,
                  worldSize,
                  expertParallelSize == ParamGroups.DENSE
                      ? ""
                      : " of expert-parallel size " + expertParallelSize));
    }
    List<Parameter> parameters = null;
    for (int expertRank = 0; expertRank < Math.max(1, expertParallelSize); expertRank++) {
      List<Shard> sharing = sharing(shards, expertParallelSize, expertRank, dataFirst);
      List<Parameter> found =
          AlignedShards.hasGaps(sharing, group)
              ? AlignedShards.parameters(sharing, group)
              : new Walk(group).over(sharing);
      if (parameters != null && !parameters.equals(found)) {
        throw new RefusedException(
            sharing.get(0).file().path(),
            "param group %d holds other parameters than on the first rank. The shards are of different runs."
                .formatted(group));
      }
      parameters = found;
    }
    return parameters;
  }

  /** The shards of the ranks that share a group, in the order of its partitions. */
  static List<Shard> sharing(
      List<Shard> shards, int expertParallelSize, int expertRank, boolean dataFirst) {
    ParamGroups placement = new ParamGroups(List.of(), false, dataFirst);
    return IntStream.range(0, shards.size())
        .filter(
            r ->
                expertParallelSize == ParamGroups.DENSE
                    || placement.expertRank(r, shards.size(), expertParallelSize) == expertRank)
        .mapToObj(shards::get)
        .toList();
  }

  /** Puts the fragments of the ranks that share a group one behind the other. */
  private static final class Walk {
    private final int group;
    private final Map<String, Long> elements = new LinkedHashMap<>();
    private String last;

    Walk(int group) {
      this.group = group;
    }

    List<Parameter> over(List<Shard> sharing) {
      long partition = AlignedShards.partitionElements(sharing.get(0).states(), group);
      long data = partition * sharing.size();
      for (Shard shard : sharing) {
        PickledValue mappings =
            shard
                .states()
                .stateDict()
                .findPresent(OptimizerStates.PARAM_SLICE_MAPPINGS)
                .orElse(null);
        data -= shard.states().numbers(OptimizerStates.GROUP_PADDINGS).get(group);
        if (mappings != null) {
          add(mappings.items().get(group));
        }
      }
      if (elements.isEmpty() && data > 0) {
        // Before param_slice_mappings there were no names; the flat group is cut as a whole then.
        return List.of(new Parameter("all parameters of group " + group, List.of(data), group));
      }
      return elements.entrySet().stream()
          .map(e -> new Parameter(e.getKey(), List.of(e.getValue()), group))
          .toList();
    }

    private void add(PickledValue mapping) {
      long at = 0;
      for (PickledValue.Entry entry : mapping.children()) {
        PyObject fields =
            entry.value().node() instanceof PyInstance made ? made.state() : entry.value().node();
        PickledValue address = new PickledValue(entry.value().file(), entry.value().path(), fields);
        long start = address.get("start").asLong();
        long numel = address.get("numel").asLong();
        boolean known = elements.containsKey(entry.key());
        if (start != at || numel < 1 || (known && (!entry.key().equals(last) || at > 0))) {
          throw entry
              .value()
              .refused(
                  known
                      ? "the shards of the ranks before it hold this parameter already, and then others. Is a shard there twice, or under the name of another rank?"
                      : "expected a fragment that begins at element %d, found %d elements from %d."
                          .formatted(at, numel, start));
        }
        elements.merge(entry.key(), numel, Math::addExact);
        last = entry.key();
        at += numel;
      }
    }
  }

  /** The shards by rank, as the checks of the number of ranks want them. */
  public static SortedMap<Integer, OptimizerStates> byRank(SortedMap<Integer, Shard> shards) {
    SortedMap<Integer, OptimizerStates> states = new TreeMap<>();
    shards.forEach((rank, shard) -> states.put(rank, shard.states()));
    return states;
  }

  /** Whether round robin would put the parameters of a group in another order. */
  public static boolean orderMatters(ParamGroups groups, int worldSize) {
    ParamGroups reordered = groups.withRoundRobin(true);
    for (int size : groups.expertParallelSizes()) {
      FlatLayout plain = groups.layout(worldSize, size, 0);
      FlatLayout robin = reordered.layout(worldSize, size, 0);
      for (int group = 0; group < plain.buckets(); group++) {
        if (!Arrays.equals(plain.flatOrder(group), robin.flatOrder(group))) {
          return true;
        }
      }
    }
    return false;
  }
}
