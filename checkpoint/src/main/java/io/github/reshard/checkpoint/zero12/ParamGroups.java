package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.state.Parameter;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.function.IntSupplier;
import java.util.stream.IntStream;

/**
 * The param groups of one mp rank in the order of its optimizer files: what is partitioned, and
 * among whom. Where they come from is another question than what a shard says of them.
 *
 * @param groups the groups
 * @param roundRobin whether the flat order is that of {@code round_robin_gradients}
 * @param dataFirst whether consecutive ranks share experts instead of having different ones ({@code
 *     use_data_before_expert_parallelism}; DeepSpeed 0.19.6, utils/groups.py)
 * @param paddings how the groups are padded
 */
public record ParamGroups(
    List<Group> groups, boolean roundRobin, boolean dataFirst, Paddings paddings) {
  /** The {@link Group#expertParallelSize()} of parameters that every rank has. */
  public static final int DENSE = 0;

  /**
   * A param group.
   *
   * @param parameters in the order in which the optimizer was given them
   * @param expertParallelSize into how many sets of ranks with different experts the ranks fall, or
   *     {@link #DENSE}
   * @param recordedByAllRanks whether {@code param_slice_mappings} cut it by the number of all
   *     ranks ({@link FlatLayout#recordedExtentsIn})
   */
  public record Group(
      List<Parameter> parameters, int expertParallelSize, boolean recordedByAllRanks) {
    public Group {
      parameters = List.copyOf(parameters);
    }

    public Group(List<Parameter> parameters, int expertParallelSize) {
      this(parameters, expertParallelSize, false);
    }
  }

  public ParamGroups {
    groups = List.copyOf(groups);
  }

  /** Groups that are padded as usual. */
  public ParamGroups(List<Group> groups, boolean roundRobin, boolean dataFirst) {
    this(groups, roundRobin, dataFirst, Paddings.USUAL);
  }

  /**
   * The groups of a tensor-parallel rank that has parts of other shapes of the same parameters.
   *
   * @param local by group, in the order of these
   */
  ParamGroups withParameters(List<Parameter> local) {
    List<Group> other = new ArrayList<>();
    int at = 0;
    for (Group group : groups) {
      int size = group.parameters().size();
      other.add(
          new Group(
              local.subList(at, at + size),
              group.expertParallelSize(),
              group.recordedByAllRanks()));
      at += size;
    }
    return new ParamGroups(other, roundRobin, dataFirst, paddings);
  }

  public ParamGroups withRoundRobin(boolean reordered) {
    return new ParamGroups(groups, reordered, dataFirst, paddings);
  }

  ParamGroups withPaddings(Paddings padded) {
    return new ParamGroups(groups, roundRobin, dataFirst, padded);
  }

  /**
   * The groups that a model file and the optimizer files beside it describe.
   *
   * <p>{@code ds_config} is a dict or, when DeepSpeed was given a path, that path; then the
   * mappings of the shards tell whether the flat order is another than the original one.
   *
   * @param target at how many ranks it will be, or what is not positive where no order is needed
   * @throws RefusedException if the order at {@code target} ranks depends on what neither the
   *     configuration nor the mappings tell
   */
  static ParamGroups of(ModelStates model, List<Shard> shards, int worldSize, IntSupplier target) {
    OptimizerStates optimizer = shards.get(0).states();
    List<List<Parameter>> flat = model.flatGroups();
    boolean roundRobin =
        !optimizer.isBf16Optimizer()
            && (model.config().map(DsConfig::roundRobin).orElse(false)
                || isReordered(flat, shards));
    List<Group> groups = new ArrayList<>();
    for (int g = 0; g < flat.size(); g++) {
      int expertParallelSize = optimizer.expertParallelSize(g);
      int sharers = worldSize / Math.max(1, expertParallelSize);
      groups.add(
          new Group(
              roundRobin && sharers > 0 ? RoundRobin.undo(flat.get(g), sharers) : flat.get(g),
              expertParallelSize));
    }
    if (!roundRobin && !optimizer.isBf16Optimizer() && model.config().isEmpty()) {
      requireKnownOrder(model, groups, worldSize, target);
    }
    return new ParamGroups(
        groups, roundRobin, model.config().map(DsConfig::dataBeforeExperts).orElse(false));
  }

  /**
   * Few ranks, such as one, leave the order as it was, whether {@code round_robin_gradients} is on
   * or not; more do not.
   */
  private static void requireKnownOrder(
      ModelStates model, List<Group> groups, int worldSize, IntSupplier target) {
    if (groups.stream().noneMatch(group -> reorders(group, worldSize))
        && groups.stream().anyMatch(group -> reorders(group, target.getAsInt()))) {
      throw new RefusedException(
          model.root().file(),
          "ds_config is not stored, only the path of its file, and on %s the parameters lie the same with round_robin_gradients and without, but not on %d. Save the checkpoint once from a run whose config is given as a dict."
              .formatted(worldSize == 1 ? "1 rank" : worldSize + " ranks", target.getAsInt()));
    }
  }

  private static boolean reorders(Group group, int ranks) {
    int size = group.parameters().size();
    int sharers = ranks / Math.max(1, group.expertParallelSize());
    return sharers > 0
        && !RoundRobin.flatOrder(size, sharers).equals(IntStream.range(0, size).boxed().toList());
  }

  /**
   * Whether a group's flat order is another than the one in which its parameters appear in the
   * mappings of rank 0, 1, and so on, which DeepSpeed always records in the original order.
   */
  private static boolean isReordered(List<List<Parameter>> flat, List<Shard> shards) {
    for (int g = 0; g < flat.size(); g++) {
      Set<String> recorded = new LinkedHashSet<>();
      for (Shard shard : shards) {
        recorded.addAll(shard.states().sliceNames(g));
      }
      List<String> order =
          flat.get(g).stream().map(Parameter::name).filter(recorded::contains).toList();
      if (!order.equals(List.copyOf(recorded)) && order.size() == recorded.size()) {
        return true;
      }
    }
    return false;
  }

  /**
   * What is thrown where experts do not fall evenly on the ranks.
   *
   * @param where the checkpoint is
   */
  static RefusedException notDivided(String where, int expertParallelSize, int ranks, int target) {
    return new RefusedException(
        where,
        "the expert-parallel size is %d, which has to divide the data-parallel size: %d of the checkpoint, %d of the target. Choose a --targetWorldSize that is a multiple of %d."
            .formatted(expertParallelSize, ranks, target, expertParallelSize));
  }

  /** The different expert-parallel sizes, {@link #DENSE} first if there are dense groups. */
  public List<Integer> expertParallelSizes() {
    return groups.stream().map(Group::expertParallelSize).distinct().sorted().toList();
  }

  /** The indices of the groups with this expert-parallel size. */
  List<Integer> indices(int expertParallelSize) {
    List<Integer> indices = new ArrayList<>();
    for (int g = 0; g < groups.size(); g++) {
      if (groups.get(g).expertParallelSize() == expertParallelSize) {
        indices.add(g);
      }
    }
    return indices;
  }

  /** Which experts {@code rank} of {@code worldSize} has. */
  int expertRank(int rank, int worldSize, int expertParallelSize) {
    return dataFirst ? rank / (worldSize / expertParallelSize) : rank % expertParallelSize;
  }

  /**
   * How the groups with this expert-parallel size lie in the partitions of {@code worldSize} ranks.
   *
   * @param expertRank whose experts; not looked at for dense groups
   */
  public FlatLayout layout(int worldSize, int expertParallelSize, int expertRank) {
    List<Parameter> parameters = new ArrayList<>();
    List<FlatLayout.Group> shared = new ArrayList<>();
    for (int g : indices(expertParallelSize)) {
      for (Parameter parameter : groups.get(g).parameters()) {
        parameters.add(new Parameter(parameter.name(), parameter.shape(), shared.size()));
      }
      int size = groups.get(g).parameters().size();
      if (expertParallelSize == DENSE) {
        shared.add(FlatLayout.Group.dense(size, worldSize));
      } else {
        int sharers = worldSize / expertParallelSize;
        int recorded = groups.get(g).recordedByAllRanks() ? worldSize : sharers;
        shared.add(
            dataFirst
                ? new FlatLayout.Group(size, expertRank * sharers, 1, sharers, recorded)
                : new FlatLayout.Group(size, expertRank, expertParallelSize, sharers, recorded));
      }
    }
    return new FlatLayout(
        worldSize, parameters, shared, roundRobin, paddings.of(indices(expertParallelSize)));
  }
}
