package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ExpertNames;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ExpertParallelLayout;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.ZeroLayout;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The experts of all expert-parallel ranks as one set of parameters. In the files of a rank they
 * are numbered from 0; here they have their global names, which are the same at every
 * expert-parallel size.
 */
final class ExpertSets {
  private ExpertSets() {}

  /**
   * The sets of all expert-parallel ranks as one.
   *
   * @param where the checkpoint, for messages
   * @param worldSize data-parallel ranks of the source
   * @throws RefusedException if the ranks do not hold the same states
   */
  static ParameterSet joined(String where, List<ParameterSet> ofRanks, int worldSize) {
    ParameterSet first = ofRanks.get(0);
    List<Parameter> parameters = new ArrayList<>();
    List<List<Integer>> numbers = new ArrayList<>();
    List<ModuleWeight> weights = new ArrayList<>();
    Map<Partition, Address> partitions = new HashMap<>();
    for (int rank = 0; rank < ofRanks.size(); rank++) {
      ParameterSet set = ofRanks.get(rank);
      if (!set.states().equals(first.states()) || !set.whole().equals(first.whole())) {
        throw new RefusedException(
            where,
            "the experts of expert-parallel rank %d have the states %s, those of rank 0 have %s. The files are of different runs."
                .formatted(rank, set.states(), first.states()));
      }
      List<Integer> own = new ArrayList<>();
      for (Parameter parameter : global(set.parameters(), rank)) {
        own.add(parameters.size());
        parameters.add(parameter);
      }
      numbers.add(own);
      weights.addAll(set.weights());
      partitions.putAll(set.partitions());
    }
    return new ParameterSet(
        first.mpRank(),
        ParamId.ALL_EXPERTS,
        new ExpertParallelLayout(
            worldSize,
            parameters,
            ofRanks.stream().map(ParameterSet::layout).toList(),
            numbers,
            groups(first.layout())),
        first.states(),
        partitions,
        weights,
        first.whole(),
        List.of(ParameterSet.Share.whole(first.mpRank(), parameters)));
  }

  private static List<Integer> groups(ZeroLayout layout) {
    List<Integer> groups = new ArrayList<>();
    for (int bucket = 0; bucket < layout.buckets(); bucket++) {
      groups.add(layout.groupOf(bucket));
    }
    return groups;
  }

  /**
   * How the experts lie in the target.
   *
   * @param joined all experts, as {@link #joined} gives them
   * @param layouts those of the target's expert-parallel ranks
   * @param groups for each group of these, the source's group whose states it has
   */
  static ExpertParallelLayout target(
      ParameterSet joined, List<FlatLayout> layouts, List<Integer> groups) {
    Map<String, Integer> byName = new LinkedHashMap<>();
    for (int p = 0; p < joined.parameters().size(); p++) {
      byName.put(joined.parameters().get(p).name(), p);
    }
    List<List<Integer>> numbers = new ArrayList<>();
    for (int rank = 0; rank < layouts.size(); rank++) {
      numbers.add(
          global(layouts.get(rank).parameters(), rank).stream()
              .map(parameter -> byName.get(parameter.name()))
              .toList());
    }
    return new ExpertParallelLayout(
        layouts.get(0).worldSize(), joined.parameters(), layouts, numbers, groups);
  }

  /** The parameters of the experts of {@code rank} by their global names. */
  private static List<Parameter> global(List<Parameter> local, int rank) {
    ExpertNames names = ExpertNames.of(local);
    return local.stream()
        .map(p -> new Parameter(names.global(p.name(), rank), p.shape(), p.group()))
        .toList();
  }
}
