package io.github.reshard.checkpoint.plan;

import java.io.Serializable;
import java.util.List;

/** How a target file is made. */
public sealed interface Recipe extends Serializable {
  /** The index in {@link ReshardPlan#sources()} of the file that it is made from. */
  int template();

  /**
   * The file as it is.
   *
   * @param template which one
   */
  record AsIs(int template) implements Recipe {}

  /**
   * An optimizer file, with this rank's partitions.
   *
   * @param template the source rank's file that says everything that is not partitioned
   * @param rank the target rank
   * @param groups for each param group of the file, the partitioned group
   */
  record OptimizerFile(int template, int rank, List<GroupRef> groups) implements Recipe {
    public OptimizerFile {
      groups = List.copyOf(groups);
    }
  }

  /**
   * A model file of ZeRO-1 or 2.
   *
   * @param template the source's file of the same mp rank
   * @param groups for each param group of {@code param_shapes}, the partitioned group
   */
  record ModelFile(int template, List<GroupRef> groups) implements Recipe {
    public ModelFile {
      groups = List.copyOf(groups);
    }
  }

  /**
   * A param group among all partitioned models.
   *
   * @param model index into {@link ReshardPlan#models()}
   * @param group the param group in that model
   */
  record GroupRef(int model, int group) implements Serializable {}
}
