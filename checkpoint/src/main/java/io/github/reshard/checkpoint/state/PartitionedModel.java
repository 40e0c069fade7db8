package io.github.reshard.checkpoint.state;

import io.github.reshard.checkpoint.torch.DType;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;

/**
 * The parameters that a set of data-parallel ranks partitions among its members: those of one
 * model-parallel rank, or of one expert-parallel rank of it.
 *
 * @param mpRank the model-parallel rank
 * @param expertRank the expert-parallel rank, {@link ParamId#ALL_EXPERTS}, or {@link
 *     ParamId#NO_EXPERT}
 * @param source how the parameters lie in the source's partitions
 * @param target how they lie in the target's; the same parameters in the same order
 * @param states for each param group, the partitioned states and their types, {@link States#MASTER}
 *     among them
 * @param sourcePartitions where each source partition begins
 * @param targetPartitions where each target partition begins
 * @param weights for each parameter where the module's weight is, or null where no file holds it
 * @param whole the states that are not cut along the partitions, see {@link WholeParameters}
 * @param casts what is written as another type than it is read as
 */
public record PartitionedModel(
    int mpRank,
    int expertRank,
    ZeroLayout source,
    ZeroLayout target,
    List<Map<String, DType>> states,
    Map<Partition, Address> sourcePartitions,
    Map<Partition, Address> targetPartitions,
    List<ModuleWeight> weights,
    Set<GroupState> whole,
    Map<ParameterState, DType> casts)
    implements Serializable {

  /** A model whose states keep their types, until one is added that does not. */
  public PartitionedModel(
      int mpRank,
      int expertRank,
      ZeroLayout source,
      ZeroLayout target,
      List<Map<String, DType>> states,
      Map<Partition, Address> sourcePartitions,
      Map<Partition, Address> targetPartitions,
      List<ModuleWeight> weights,
      Set<GroupState> whole) {
    this(
        mpRank,
        expertRank,
        source,
        target,
        states,
        sourcePartitions,
        targetPartitions,
        weights,
        whole,
        new HashMap<>());
  }

  /** A model all of whose states are cut along the partitions, until one is added that is not. */
  public PartitionedModel(
      int mpRank,
      int expertRank,
      ZeroLayout source,
      ZeroLayout target,
      List<Map<String, DType>> states,
      Map<Partition, Address> sourcePartitions,
      Map<Partition, Address> targetPartitions,
      List<ModuleWeight> weights) {
    this(
        mpRank,
        expertRank,
        source,
        target,
        states,
        sourcePartitions,
        targetPartitions,
        weights,
        new HashSet<>());
  }

  /**
   * One state of a param group.
   *
   * @param group the param group
   * @param state the state
   */
  public record GroupState(int group, String state) implements Serializable {}

  /**
   * One state of a parameter.
   *
   * @param parameter its index
   * @param state the state
   */
  public record ParameterState(int parameter, String state) implements Serializable {}

  /**
   * One state of one rank's partition.
   *
   * @param rank the data-parallel rank
   * @param bucket the param group in ZeRO-1 and 2, the sub-group in ZeRO-3
   * @param state the state
   */
  public record Partition(int rank, int bucket, String state) implements Serializable {}

  /**
   * Where a parameter's weights in the module's type lie: for each holder its local tensor, see
   * {@link StateLayout#localTensor}, or null where a holder has none of its own.
   *
   * @param dtype the type of an element
   * @param sources where the source has them; empty if only the target does, which then gets the
   *     cast of the master weights
   * @param targets where they go if they move by themselves; empty if their files are copied as
   *     they are, or if they are dropped
   * @param isDropped whether the target has no module weights
   */
  public record ModuleWeight(
      DType dtype, List<Address> sources, List<Address> targets, boolean isDropped)
      implements Serializable {
    public ModuleWeight {
      sources = Collections.unmodifiableList(new ArrayList<>(sources));
      targets = Collections.unmodifiableList(new ArrayList<>(targets));
    }

    /** Weights that the target has. */
    public ModuleWeight(DType dtype, List<Address> sources, List<Address> targets) {
      this(dtype, sources, targets, false);
    }

    /**
     * The weight of a parameter that is not cut, and that the target has.
     *
     * @param source where it is, or null
     * @param target where it goes, or null
     */
    public ModuleWeight(DType dtype, Address source, Address target) {
      this(
          dtype,
          source == null ? List.of() : List.of(source),
          target == null ? List.of() : List.of(target));
    }

    /** The weight of a source whose target has none. */
    public ModuleWeight dropped() {
      return new ModuleWeight(dtype, sources, List.of(), true);
    }

    /** Where the source has the weights of a parameter that is not cut; null if it has not. */
    public Address source() {
      return sources.stream().filter(Objects::nonNull).findFirst().orElse(null);
    }

    /** Whether it is made of the master weights. */
    public boolean isDerived() {
      return sources.isEmpty();
    }

    /** Whether the target gets the source's weights, as elements of their own. */
    public boolean moves() {
      return !sources.isEmpty() && !targets.isEmpty();
    }
  }

  /** Whether it has experts of a mixture, which few of the data-parallel ranks share. */
  public boolean isOfExperts() {
    return expertRank != ParamId.NO_EXPERT;
  }

  /** Whether its parameters are frozen ones, of which nothing is there but the weights. */
  public boolean isFrozen() {
    return !states.isEmpty() && states.get(0).containsKey(States.FROZEN);
  }

  /** The identity of a parameter in the whole job. */
  public ParamId id(String checkpoint, int parameter) {
    return new ParamId(checkpoint, mpRank, parameters().get(parameter).name());
  }

  /** Whether the ranks that share a parameter of {@code group} hold all of {@code state} each. */
  public boolean isWhole(int group, String state) {
    return whole.contains(new GroupState(group, state));
  }

  /** The states of {@code group} that are not cut. */
  public Set<String> wholeStates(int group) {
    return whole.stream()
        .filter(of -> of.group() == group)
        .map(GroupState::state)
        .collect(Collectors.toCollection(TreeSet::new));
  }

  /** Who holds which elements of {@code state} of {@code group} in the source. */
  public StateLayout sourceOf(int group, String state) {
    return isWhole(group, state) ? new WholeParameters(source) : source;
  }

  /** Who holds which elements of {@code state} of {@code group} in the target. */
  public StateLayout targetOf(int group, String state) {
    return isWhole(group, state) ? new WholeParameters(target) : target;
  }

  /**
   * The type that {@code state} of {@code parameter} is written as, which is read as {@code type}.
   */
  public DType written(int parameter, String state, DType type) {
    return casts.getOrDefault(new ParameterState(parameter, state), type);
  }

  /** All parameters. */
  public List<Parameter> parameters() {
    return source.parameters();
  }

  /** The partitioned states of {@code parameter}'s group and their types. */
  public Map<String, DType> statesOf(int parameter) {
    return states.get(parameters().get(parameter).group());
  }
}
