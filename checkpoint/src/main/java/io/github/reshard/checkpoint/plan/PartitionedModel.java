package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.layout.Parameter;
import io.github.reshard.checkpoint.layout.ZeroLayout;
import io.github.reshard.checkpoint.torch.DType;
import java.io.Serializable;
import java.util.List;
import java.util.Map;

/**
 * The parameters that a set of data-parallel ranks partitions among its members: those of one
 * model-parallel rank, or of one expert-parallel rank of it.
 *
 * @param mpRank the model-parallel rank
 * @param expertRank the expert-parallel rank, or {@link ParamId#NO_EXPERT}
 * @param source how the parameters lie in the source's partitions
 * @param target how they lie in the target's; the same parameters in the same order
 * @param states for each param group, the partitioned states and their types, {@link States#MASTER}
 *     among them
 * @param sourcePartitions where each source partition begins
 * @param targetPartitions where each target partition begins
 * @param weights for each parameter where the module's weight is, or null where no file holds it
 */
public record PartitionedModel(
    int mpRank,
    int expertRank,
    ZeroLayout source,
    ZeroLayout target,
    List<Map<String, DType>> states,
    Map<Partition, Address> sourcePartitions,
    Map<Partition, Address> targetPartitions,
    List<ModuleWeight> weights)
    implements Serializable {

  /**
   * One state of one rank's partition.
   *
   * @param rank the data-parallel rank
   * @param bucket the param group in ZeRO-1 and 2, the sub-group in ZeRO-3
   * @param state the state
   */
  public record Partition(int rank, int bucket, String state) implements Serializable {}

  /**
   * Where a parameter's weight in the module's type lies.
   *
   * @param dtype the type of an element
   * @param source where the source has it; null if only the target does, which then gets the cast
   *     of the master weights
   * @param target where it goes if it moves by itself; null if its file is copied as it is, or if
   *     the target has no module weights
   */
  public record ModuleWeight(DType dtype, Address source, Address target) implements Serializable {
    /** Whether it is made of the master weights. */
    public boolean isDerived() {
      return source == null;
    }

    boolean moves() {
      return source != null && target != null;
    }
  }

  /** The identity of a parameter in the whole job. */
  public ParamId id(String checkpoint, int parameter) {
    return new ParamId(checkpoint, mpRank, expertRank, parameters().get(parameter).name());
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
