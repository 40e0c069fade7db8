package io.github.reshard.checkpoint.state;

import io.github.reshard.checkpoint.state.PartitionedModel.GroupState;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.torch.DType;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;

/**
 * Parameters that one set of data-parallel ranks partitions among its members, as they were read:
 * which there are, which states of what type, and where each piece lies. It is one side of a {@link
 * PartitionedModel}; the other is what a writer makes of it.
 *
 * <p>Pieces may lie in one layout and belong to another: {@code layout} says who has which elements
 * in the source, {@code shares} to which model-parallel ranks the parameters belong. As read, there
 * is one share, and a parameter is what that rank calls by its name. Where parameters of several
 * tensor-parallel ranks were joined, {@code parameters()} have their full shapes, {@code layout} is
 * a {@link TensorParallelLayout} of the source's ranks, and the shares are those of the target's.
 *
 * @param mpRank the model-parallel rank, the first if it is joined of several; names the parameters
 * @param expertRank the expert-parallel rank, {@link ParamId#ALL_EXPERTS}, or {@link
 *     ParamId#NO_EXPERT}
 * @param layout how the parameters lie in the source's partitions
 * @param states for each param group, the partitioned states and their types, {@link States#MASTER}
 *     among them
 * @param partitions where each partition begins
 * @param weights for each parameter where the module's weight is, or null where no file holds it;
 *     none of them says yet where it goes
 * @param whole the states that are not cut along the partitions, see {@link WholeParameters}
 * @param shares which model-parallel ranks hold the parameters together, and as which boxes
 */
public record ParameterSet(
    int mpRank,
    int expertRank,
    ZeroLayout layout,
    List<Map<String, DType>> states,
    Map<Partition, Address> partitions,
    List<ModuleWeight> weights,
    Set<GroupState> whole,
    List<Share> shares) {

  /**
   * What one model-parallel rank holds of the parameters.
   *
   * @param mpRank the rank
   * @param tensors its local tensor of each parameter
   */
  public record Share(int mpRank, List<LocalTensor> tensors) {
    public Share {
      tensors = List.copyOf(tensors);
    }

    /** All of {@code parameters} whole. */
    public static Share whole(int mpRank, List<Parameter> parameters) {
      return new Share(mpRank, parameters.stream().map(p -> LocalTensor.whole(p.shape())).toList());
    }
  }

  public ParameterSet {
    shares = List.copyOf(shares);
  }

  /** Parameters of one rank, of which nothing is known yet but where they belong. */
  public static ParameterSet begin(int mpRank, int expertRank, ZeroLayout layout) {
    return new ParameterSet(
        mpRank,
        expertRank,
        layout,
        new ArrayList<>(),
        new HashMap<>(),
        new ArrayList<>(),
        new HashSet<>(),
        List.of(Share.whole(mpRank, layout.parameters())));
  }

  /** The same, which nobody can change any more. */
  public ParameterSet read() {
    return new ParameterSet(
        mpRank,
        expertRank,
        layout,
        Collections.unmodifiableList(states),
        Collections.unmodifiableMap(partitions),
        Collections.unmodifiableList(weights),
        Collections.unmodifiableSet(whole),
        shares);
  }

  /** The same pieces in another layout, of the same parameters and partitions. */
  public ParameterSet with(ZeroLayout other) {
    return new ParameterSet(mpRank, expertRank, other, states, partitions, weights, whole, shares);
  }

  /** The same under the name of another model-parallel rank. */
  public ParameterSet named(int rank) {
    return new ParameterSet(rank, expertRank, layout, states, partitions, weights, whole, shares);
  }

  /** All parameters, with their full shapes. */
  public List<Parameter> parameters() {
    return layout.parameters();
  }

  /** The parameters as {@code share} has them: in its own shapes. */
  public List<Parameter> local(Share share) {
    List<Parameter> local = new ArrayList<>();
    for (int p = 0; p < parameters().size(); p++) {
      Parameter full = parameters().get(p);
      local.add(new Parameter(full.name(), share.tensors().get(p).shape(), full.group()));
    }
    return local;
  }

  /**
   * Which share a model-parallel rank has.
   *
   * @throws IllegalArgumentException if it has none
   */
  public int shareOf(int rank) {
    for (int s = 0; s < shares.size(); s++) {
      if (shares.get(s).mpRank() == rank) {
        return s;
      }
    }
    throw new IllegalArgumentException("mp rank %d has none of %s".formatted(rank, parameters()));
  }

  /** Whether one model-parallel rank has all of every parameter, and nothing around it. */
  public boolean isOfOneRank() {
    return shares.size() == 1
        && shares.get(0).tensors().equals(Share.whole(mpRank, parameters()).tensors());
  }

  /**
   * How the parameters lie in a target.
   *
   * @param ofShares for each share, how its own parameters are partitioned among its data-parallel
   *     ranks; in the whole, rank {@code d} of share {@code s} is rank {@code s * ranks + d}
   */
  public ZeroLayout target(List<? extends ZeroLayout> ofShares) {
    return isOfOneRank()
        ? ofShares.get(0)
        : new TensorParallelLayout(
            parameters(), shares.stream().map(Share::tensors).toList(), ofShares);
  }

  /** The partitioned states of {@code parameter}'s group and their types. */
  public Map<String, DType> statesOf(int parameter) {
    return states.get(parameters().get(parameter).group());
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
}
