package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.function.IntSupplier;

/**
 * The sub-groups that a ZeRO-3 checkpoint records.
 *
 * @param parameters the trainable parameters, group after group
 * @param firsts for each sub-group the index of its first parameter
 * @param shapes what records it, for messages
 */
public record SubGroups(List<Parameter> parameters, List<Integer> firsts, PickledValue shapes) {
  /** {@code sub_group_size} where ds_config is silent (runtime/zero/config.py). */
  /** Reads the boundaries off {@code param_shapes} and the groups off the optimizer's params. */
  static SubGroups of(ModelStates model, ShardedStates optimizer) {
    return of(model, optimizer.subGroups(), optimizer.paramGroups());
  }

  /**
   * The same.
   *
   * @param groups the numbers of the sub-groups of each param group
   * @param paramGroups what says them
   */
  public static SubGroups of(
      ModelStates model, List<List<Integer>> groups, PickledValue paramGroups) {
    List<List<Parameter>> subGroups = model.flatGroups();
    PickledValue shapes = model.root().get(ModelStates.PARAM_SHAPES);
    List<Parameter> parameters = new ArrayList<>();
    List<Integer> firsts = new ArrayList<>();
    for (int g = 0; g < groups.size(); g++) {
      for (int subGroup : groups.get(g)) {
        if (subGroup != firsts.size() || subGroup >= subGroups.size()) {
          throw paramGroups.refused(
              "expected the params to number the %d sub-groups of param_shapes, found %s."
                  .formatted(subGroups.size(), groups));
        }
        firsts.add(parameters.size());
        for (Parameter parameter : subGroups.get(subGroup)) {
          parameters.add(new Parameter(parameter.name(), parameter.shape(), g));
        }
      }
    }
    if (firsts.size() != subGroups.size()) {
      throw shapes.refused(
          "has %d sub-groups, the optimizer's params number %d. The files do not belong together."
              .formatted(subGroups.size(), firsts.size()));
    }
    return new SubGroups(parameters, firsts, shapes);
  }

  private int end(int subGroup) {
    return subGroup + 1 < firsts.size() ? firsts.get(subGroup + 1) : parameters.size();
  }

  /** Whether {@code layout} has these boundaries. */
  public boolean agree(ShardedLayout layout) {
    if (layout.buckets() != firsts.size()) {
      return false;
    }
    for (int b = 0; b < firsts.size(); b++) {
      if (layout.firstOf(b) != firsts.get(b)) {
        return false;
      }
    }
    return true;
  }

  /**
   * The {@code sub_group_size} that makes these boundaries at {@code ranks} ranks, from ds_config
   * or, where that is not stored, from the boundaries themselves.
   *
   * @param targetRanks asked where boundaries leave several
   */
  public long size(ModelStates model, int ranks, IntSupplier targetRanks, Consumer<String> notes) {
    Optional<DsConfig> config = model.config();
    if (config.isPresent()) {
      long size = config.get().subGroupSize();
      if (!agree(new ShardedLayout(ranks, parameters, size))) {
        throw shapes.refused(
            "the sub-groups are not those that sub_group_size %d makes at %d ranks. ds_config was changed after the checkpoint was made, or the files do not belong together."
                .formatted(size, ranks));
      }
      return size;
    }
    return inferred(
        ranks,
        targetRanks,
        notes,
        "ds_config is not stored, only the path of its file",
        "Save the checkpoint once from a run whose config is given as a dict.");
  }

  /**
   * As the boundaries tell it.
   *
   * @param targetRanks asked where they leave several
   * @param because why it has to be told by them
   * @param remedy what the user can do if they leave several
   */
  public long inferred(
      int ranks, IntSupplier targetRanks, Consumer<String> notes, String because, String remedy) {
    ShardedLayout pieces = new ShardedLayout(ranks, parameters, 0);
    long above = -1;
    long atMost = Long.MAX_VALUE;
    for (int b = 0; b < firsts.size(); b++) {
      long sum = 0;
      for (int p = firsts.get(b); p < end(b); p++) {
        sum += pieces.piece(p);
      }
      above = Math.max(above, sum - pieces.piece(end(b) - 1));
      boolean lastOfGroup =
          end(b) == parameters.size()
              || parameters.get(end(b)).group() != parameters.get(firsts.get(b)).group();
      if (!lastOfGroup) {
        atMost = Math.min(atMost, sum);
      }
    }
    long smallest = above + 1;
    if (smallest > atMost || !agree(new ShardedLayout(ranks, parameters, smallest))) {
      throw shapes.refused(
          "no sub_group_size makes these sub-groups at %d ranks.".formatted(ranks));
    }
    if (smallest <= DsConfig.DEFAULT_SUB_GROUP_SIZE && DsConfig.DEFAULT_SUB_GROUP_SIZE <= atMost) {
      notes.accept(
          "%s; sub_group_size is taken to be DeepSpeed's default of %d, which fits the sub-groups"
              .formatted(because, DsConfig.DEFAULT_SUB_GROUP_SIZE));
      return DsConfig.DEFAULT_SUB_GROUP_SIZE;
    }
    int target = targetRanks.getAsInt();
    if (!new ShardedLayout(target, parameters, smallest)
        .hasBoundariesOf(new ShardedLayout(target, parameters, atMost))) {
      throw shapes.refused(
          "%s, and sub_group_size may be anything from %d to %d, which makes different sub-groups at %d ranks. %s"
              .formatted(because, smallest, atMost, target, remedy));
    }
    notes.accept(
        "%s; every sub_group_size that fits the source makes the same sub-groups at %d ranks"
            .formatted(because, target));
    return smallest;
  }
}
