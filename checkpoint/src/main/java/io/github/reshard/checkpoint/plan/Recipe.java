package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.torch.StorageSize;
import java.io.Serializable;
import java.util.List;

/** How a target file is made. */
public sealed interface Recipe extends Serializable {
  /** The stage of a file that stays at the source's. */
  int AS_SAVED = 0;

  /** The {@link #template()} of a file that is made from the plan alone. */
  int NO_TEMPLATE = -1;

  /**
   * The index in {@link ReshardPlan#sources()} of the file that it is made from, or {@link
   * #NO_TEMPLATE}.
   */
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
   * @param stage the ZeRO stage that it is for, 1 or 2, or {@link #AS_SAVED}
   */
  record OptimizerFile(int template, int rank, List<GroupRef> groups, int stage) implements Recipe {
    public OptimizerFile {
      groups = List.copyOf(groups);
    }
  }

  /**
   * A model file of ZeRO-1 or 2.
   *
   * @param template the source's file of the same mp rank
   * @param groups for each param group of {@code param_shapes}, the partitioned group
   * @param stage the ZeRO stage that it is for, 1 or 2, or {@link #AS_SAVED}
   */
  record ModelFile(int template, List<GroupRef> groups, int stage) implements Recipe {
    public ModelFile {
      groups = List.copyOf(groups);
    }
  }

  /**
   * An optimizer file of ZeRO-3, with this rank's sub-groups.
   *
   * @param template the source rank's file that says everything that is not partitioned
   * @param rank the target rank
   * @param model index into {@link ReshardPlan#models()}
   * @param dsIds the {@code ds_id} of each sub-group of the target; empty if the source has none
   */
  record ShardedOptimizerFile(int template, int rank, int model, List<String> dsIds)
      implements Recipe {}

  /**
   * A model file of ZeRO-3, of which every data-parallel rank has one.
   *
   * @param template the source rank's file that says everything that is not partitioned
   * @param rank the target rank
   * @param model index into {@link ReshardPlan#models()} of the trainable parameters
   * @param frozen index into {@link ReshardPlan#models()} of the frozen parameters, or {@link
   *     #NONE_FROZEN}
   * @param sharesParameters whether the template is of the rank that it is for, and so keeps {@code
   *     shared_params}
   */
  record ShardedModelFile(int template, int rank, int model, int frozen, boolean sharesParameters)
      implements Recipe {
    /** The {@code frozen} of a file without frozen parameters. */
    public static final int NONE_FROZEN = -1;
  }

  /**
   * The file of another recipe with dicts and numbers in the place of DeepSpeed's own objects.
   *
   * @param of that recipe
   */
  record PlainObjects(Recipe of) implements Recipe {
    @Override
    public int template() {
      return of.template();
    }
  }

  /**
   * An optimizer file of ZeRO-3 made from one of ZeRO-1 or 2, or the other way round.
   *
   * @param template the source rank's file that says everything that is not partitioned
   * @param rank the target rank
   * @param model index into {@link ReshardPlan#models()}
   * @param stage the ZeRO stage that it is for
   * @param dsIds for ZeRO-3, the {@code ds_id} of each sub-group
   */
  record ConvertedOptimizerFile(int template, int rank, int model, int stage, List<String> dsIds)
      implements Recipe {
    public ConvertedOptimizerFile {
      dsIds = List.copyOf(dsIds);
    }
  }

  /**
   * A model file of ZeRO-3 made from one of ZeRO-1 or 2, or the other way round.
   *
   * @param template the source's file
   * @param rank the target rank; 0 for ZeRO-1 and 2
   * @param model index into {@link ReshardPlan#models()} of the trainable parameters
   * @param frozen index into {@link ReshardPlan#models()} of the frozen parameters, or {@link
   *     ShardedModelFile#NONE_FROZEN}
   * @param stage the ZeRO stage that it is for
   */
  record ConvertedModelFile(int template, int rank, int model, int frozen, int stage)
      implements Recipe {}

  /**
   * A torch file that is made anew: the plan says all of it but the bytes of its storages.
   *
   * @param pickle the bytes of {@code data.pkl}
   * @param storages that it refers to, in the order in which it first does
   */
  @SuppressWarnings("ArrayRecordComponent") // Never compared.
  record NewTorchFile(byte[] pickle, List<StorageSize> storages) implements Recipe {
    public NewTorchFile {
      storages = List.copyOf(storages);
    }

    @Override
    public int template() {
      return NO_TEMPLATE;
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
