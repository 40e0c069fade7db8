package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.state.ParameterSet;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * The sets of parameters of a model-parallel rank of ZeRO-1 or 2.
 *
 * @param groups the param groups
 * @param indices by expert-parallel size and expert-parallel rank, the index of the set
 */
public record FlatSets(ParamGroups groups, Map<Integer, List<Integer>> indices) {
  /** For each param group of the file of {@code rank}, the partitioned group. */
  List<GroupRef> refs(int rank, int worldSize) {
    List<GroupRef> refs = new ArrayList<>();
    for (int g = 0; g < groups.groups().size(); g++) {
      int size = groups.groups().get(g).expertParallelSize();
      int expertRank = size == ParamGroups.DENSE ? 0 : groups.expertRank(rank, worldSize, size);
      refs.add(
          new GroupRef(
              indices.get(size).get(expertRank),
              groups.indices(size).indexOf(g),
              expertRank,
              expertRank));
    }
    return refs;
  }

  /**
   * The same as they were read.
   *
   * @param sets all sets of parameters
   */
  public List<FileGroup> groups(List<ParameterSet> sets, int rank, int worldSize) {
    return refs(rank, worldSize).stream()
        .map(ref -> new FileGroup(sets.get(ref.model()), ref.group()))
        .toList();
  }

  /** The indices of all sets, by expert-parallel size and rank. */
  public List<Integer> all() {
    return indices.keySet().stream().sorted().flatMap(size -> indices.get(size).stream()).toList();
  }
}
