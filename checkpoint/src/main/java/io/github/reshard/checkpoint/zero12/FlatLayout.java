package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ZeroLayout;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Objects;

/**
 * ZeRO-1 and 2, and BF16_Optimizer: each param group is its parameters laid end to end, padded with
 * zeros to a multiple of twice the number of ranks, and cut into one equal partition a rank
 * (DeepSpeed 0.19.6, runtime/zero/stage_1_and_2.py, {@code flatten_dense_tensors_aligned}, {@code
 * get_data_parallel_partitions}; runtime/bf16_optimizer.py). With {@code parameter_alignment} there
 * is padding between the parameters as well (DeepSpeed 0.19.8, stage_1_and_2.py, {@code
 * round_robin_bit16_padding}).
 */
public final class FlatLayout implements ZeroLayout {
  private static final long serialVersionUID = 1L;

  /** {@code nccl_start_alignment_factor} of both optimizers. */
  private static final int ALIGNMENT_ELEMENTS_PER_RANK = 2;

  /**
   * One param group. Its partition i is held by data-parallel rank {@code firstRank + i *
   * rankStep}.
   *
   * @param parameters how many parameters it has
   * @param firstRank the rank of the first partition
   * @param rankStep from one partition's rank to the next: 1 for dense groups, the expert-parallel
   *     size for experts
   * @param partitions how many ranks share it
   * @param recordedPartitions into how many pieces {@code param_slice_mappings} cut it: {@code
   *     partitions}, but for the experts' groups of some versions (see {@link
   *     FlatLayout#recordedExtentsIn})
   */
  public record Group(
      int parameters, int firstRank, int rankStep, int partitions, int recordedPartitions)
      implements Serializable {
    /** A group whose mappings say where its elements are. */
    public Group(int parameters, int firstRank, int rankStep, int partitions) {
      this(parameters, firstRank, rankStep, partitions, partitions);
    }

    /** A group that all of {@code worldSize} ranks share. */
    public static Group dense(int parameters, int worldSize) {
      return new Group(parameters, 0, 1, worldSize);
    }

    int rankOf(int partition) {
      return firstRank + partition * rankStep;
    }
  }

  private final int worldSize;
  private final boolean roundRobin;
  private final Paddings paddings;
  private final List<Parameter> parameters;
  private final List<Group> groups;
  private final int[] firstOfGroup;
  private final int[][] flatOrder;

  /** Of each place in the flat order, where its parameter ends, in elements. */
  private final long[][] flatEnds;

  /** The same as if the flat order were the original one and there were no gaps. */
  private final long[][] originalEnds;

  private final long[] groupElements;
  private final long[] partitionElements;
  private final long[] flatStart;

  /**
   * @param worldSize data-parallel ranks
   * @param parameters all parameters, group after group, each group in the order in which the
   *     optimizer was given it
   * @param groups the groups, in order
   * @param roundRobin whether the flat order is that of {@code round_robin_gradients}
   */
  public FlatLayout(
      int worldSize, List<Parameter> parameters, List<Group> groups, boolean roundRobin) {
    this(worldSize, parameters, groups, roundRobin, Paddings.USUAL);
  }

  /**
   * @param worldSize data-parallel ranks
   * @param parameters all parameters, group after group, each group in the order in which the
   *     optimizer was given it
   * @param groups the groups, in order
   * @param roundRobin whether the flat order is that of {@code round_robin_gradients}
   * @param paddings how the groups are padded
   */
  public FlatLayout(
      int worldSize,
      List<Parameter> parameters,
      List<Group> groups,
      boolean roundRobin,
      Paddings paddings) {
    this.worldSize = worldSize;
    this.roundRobin = roundRobin;
    this.paddings = paddings;
    this.parameters = List.copyOf(parameters);
    this.groups = List.copyOf(groups);
    int n = groups.size();
    this.firstOfGroup = new int[n + 1];
    this.flatOrder = new int[n][];
    this.flatEnds = new long[n][];
    this.originalEnds = new long[n][];
    this.groupElements = new long[n];
    this.partitionElements = new long[n];
    this.flatStart = new long[parameters.size()];
    for (int g = 0; g < n; g++) {
      Group group = groups.get(g);
      int ranks = group.partitions();
      firstOfGroup[g + 1] = firstOfGroup[g] + group.parameters();
      flatOrder[g] = new int[group.parameters()];
      List<Integer> order = RoundRobin.flatOrder(group.parameters(), roundRobin ? ranks : 1);
      flatEnds[g] = new long[group.parameters()];
      long at = 0;
      for (int place = 0; place < order.size(); place++) {
        int parameter = firstOfGroup[g] + order.get(place);
        flatOrder[g][place] = parameter;
        flatStart[parameter] = at;
        at = Math.addExact(at, parameters.get(parameter).elements());
        flatEnds[g][place] = at;
        if (place < order.size() - 1) {
          at = Math.addExact(at, Math.floorMod(-at, paddings.alignment(g)));
        }
      }
      groupElements[g] = at;
      originalEnds[g] = roundRobin ? FlatRuns.ends(parameters, originalOrder(g)) : flatEnds[g];
      long alignment = (long) ALIGNMENT_ELEMENTS_PER_RANK * ranks;
      long aligned = Math.multiplyExact(-Math.floorDiv(-at, alignment), alignment);
      partitionElements[g] = aligned / ranks;
    }
    if (firstOfGroup[n] != parameters.size()) {
      throw new IllegalArgumentException(
          "groups have %d parameters, %d were given".formatted(firstOfGroup[n], parameters.size()));
    }
  }

  private int[] originalOrder(int group) {
    int[] original = new int[groups.get(group).parameters()];
    Arrays.setAll(original, i -> firstOfGroup[group] + i);
    return original;
  }

  /**
   * A layout that is known to be of this kind.
   *
   * @throws IllegalArgumentException if it is not
   */
  public static FlatLayout of(ZeroLayout layout) {
    if (layout instanceof FlatLayout of) {
      return of;
    }
    throw new IllegalArgumentException("a file of ZeRO-1 or 2 cannot hold " + layout);
  }

  @Override
  public int worldSize() {
    return worldSize;
  }

  @Override
  public List<Parameter> parameters() {
    return parameters;
  }

  @Override
  public int buckets() {
    return groups.size();
  }

  @Override
  public int groupOf(int bucket) {
    return bucket;
  }

  @Override
  public boolean holds(int rank, int bucket) {
    return partitionOf(rank, bucket) >= 0;
  }

  /** Elements of the partition of {@code bucket}, padding included, on every rank that has one. */
  public long bucketElements(int bucket) {
    return partitionElements[bucket];
  }

  @Override
  public long elementsIn(int rank, int bucket) {
    return holds(rank, bucket) ? bucketElements(bucket) : 0;
  }

  /** How many ranks share {@code group}: {@code partition_count}. */
  public int partitionCount(int group) {
    return groups.get(group).partitions();
  }

  /** Elements of the flat buffer of {@code group}, padding included. */
  public long flatElements(int group) {
    return partitionElements[group] * partitionCount(group);
  }

  /** Elements of the parameters of {@code group} and of the padding between them. */
  public long groupElements(int group) {
    return groupElements[group];
  }

  /** Where in its group's flat buffer {@code parameter} begins, in elements. */
  public long flatStart(int parameter) {
    return flatStart[parameter];
  }

  /** The parameters of {@code group} in the order of the flat buffer. */
  public int[] flatOrder(int group) {
    return flatOrder[group].clone();
  }

  /**
   * The parameter that holds {@code element} of the flat buffer of {@code group}, or -1 for
   * padding.
   */
  public int parameterAt(int group, long element) {
    int place = FlatRuns.firstEndAfter(flatEnds[group], element);
    return place < flatOrder[group].length && flatStart[flatOrder[group][place]] <= element
        ? flatOrder[group][place]
        : -1;
  }

  /**
   * The padding behind each parameter of {@code group} in the order of the flat buffer, in
   * elements: {@code param_alignment_paddings} (DeepSpeed 0.19.8, stage_1_and_2.py). What is behind
   * the last one is not counted there.
   */
  public List<Long> alignmentPaddings(int group) {
    int[] order = flatOrder[group];
    List<Long> between = new ArrayList<>(order.length);
    for (int place = 0; place < order.length; place++) {
      long next = place < order.length - 1 ? flatStart[order[place + 1]] : groupElements[group];
      between.add(next - flatEnds[group][place]);
    }
    return between;
  }

  /** A run of elements of a flat buffer. */
  public record Run(long start, long elements) {}

  /** The padding in the flat buffer of {@code group}, between its parameters and at the end. */
  public List<Run> flatPadding(int group) {
    List<Run> runs = new ArrayList<>();
    long at = 0;
    for (int place = 0; place < flatOrder[group].length; place++) {
      long start = flatStart[flatOrder[group][place]];
      if (start > at) {
        runs.add(new Run(at, start - at));
      }
      at = flatEnds[group][place];
    }
    if (at < flatElements(group)) {
      runs.add(new Run(at, flatElements(group) - at));
    }
    return runs;
  }

  private boolean hasGaps(int group) {
    return alignmentPaddings(group).stream().anyMatch(padding -> padding > 0);
  }

  /** The place of {@code rank} among the ranks that share {@code group}, or -1. */
  public int partitionOf(int rank, int group) {
    Group shared = groups.get(group);
    int from = rank - shared.firstRank();
    boolean among =
        from >= 0
            && from % shared.rankStep() == 0
            && from / shared.rankStep() < shared.partitions();
    return among ? from / shared.rankStep() : -1;
  }

  /**
   * How many elements at the end of {@code rank}'s partition of {@code group} are padding, that
   * between parameters left out.
   */
  public long padding(int rank, int group) {
    long start = partitionOf(rank, group) * partitionElements[group];
    long data = Math.max(0, Math.min(partitionElements[group], groupElements[group] - start));
    return partitionElements[group] - data;
  }

  /**
   * {@code group_paddings} as BF16_Optimizer records it, and DeepSpeedZeroOptimizer did before
   * 0.16.4: all of it on the last rank (bf16_optimizer.py).
   */
  public long paddingOnLastRank(int rank, int group) {
    return partitionOf(rank, group) == partitionCount(group) - 1
        ? flatElements(group) - groupElements[group]
        : 0;
  }

  /** {@code group_paddings} as DeepSpeedZeroOptimizer records it (stage_1_and_2.py). */
  public long recordedPadding(int rank, int group) {
    return paddings.wholeOnLastRank() ? paddingOnLastRank(rank, group) : padding(rank, group);
  }

  /**
   * Elements that DeepSpeedZeroOptimizer leaves of a tensor of {@code rank}'s partition, which is
   * Python's {@code tensor[:numel - padding]}: a negative end counts from the back
   * (stage_1_and_2.py, {@code _get_groups_without_padding}).
   */
  public long cutElements(int rank, int group) {
    long partition = partitionElements[group];
    long end = partition - recordedPadding(rank, group);
    return end < 0 ? Math.max(0, partition + end) : end;
  }

  /** How the groups are padded. */
  public Paddings paddings() {
    return paddings;
  }

  @Override
  public List<Extent> extentsOf(int parameter) {
    int group = parameters.get(parameter).group();
    long elements = parameters.get(parameter).elements();
    List<Extent> extents = new ArrayList<>();
    long done = 0;
    while (done < elements) {
      long flat = flatStart[parameter] + done;
      int partition = Math.toIntExact(flat / partitionElements[group]);
      long start = flat % partitionElements[group];
      long length = Math.min(elements - done, partitionElements[group] - start);
      int rank = groups.get(group).rankOf(partition);
      extents.add(new Extent(parameter, done, rank, group, start, length));
      done += length;
    }
    return extents;
  }

  @Override
  public List<Extent> extentsIn(int rank, int bucket) {
    return extents(rank, bucket, flatOrder[bucket], flatEnds[bucket], partitionElements[bucket]);
  }

  /**
   * What DeepSpeed records in {@code param_slice_mappings}: the extents as they would be in the
   * original order of the parameters. Under round robin that is not where the elements are
   * (stage_1_and_2.py, {@code _link_all_hp_params} walks {@code bit16_groups}), but it is what the
   * file says. Before DeepSpeed 0.14.5 the same function also cut groups of experts by the number
   * of all ranks instead of those that share them. Of a group with padding between parameters the
   * mappings are right, in the original order all the same (DeepSpeed 0.19.8, {@code
   * param_offsets}).
   */
  public List<Extent> recordedExtentsIn(int rank, int group) {
    if (hasGaps(group)) {
      return extentsIn(rank, group).stream()
          .sorted(Comparator.comparingInt(Extent::parameter))
          .toList();
    }
    return extents(
        rank,
        group,
        originalOrder(group),
        originalEnds[group],
        flatElements(group) / groups.get(group).recordedPartitions());
  }

  private List<Extent> extents(
      int rank, int group, int[] order, long[] ends, long partitionElements) {
    int partition = partitionOf(rank, group);
    if (partition < 0) {
      return List.of();
    }
    return FlatRuns.extents(parameters, order, ends, partition, partitionElements, rank, group);
  }

  /** Whether the flat order is that of {@code round_robin_gradients}. */
  public boolean roundRobin() {
    return roundRobin;
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof FlatLayout that
        && worldSize == that.worldSize
        && roundRobin == that.roundRobin
        && paddings.equals(that.paddings)
        && parameters.equals(that.parameters)
        && groups.equals(that.groups);
  }

  @Override
  public int hashCode() {
    return Objects.hash(worldSize, roundRobin, paddings, parameters, groups);
  }
}
