package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.state.PartitionedModel;

/**
 * A param group of a file of ZeRO-1 or 2.
 *
 * @param model the model whose parameters it has
 * @param group the group in that model's layouts
 * @param index the same for a recipe
 */
public record FileGroup(PartitionedModel model, int group, GroupRef index) {
  FlatLayout source() {
    return (FlatLayout) model.source();
  }

  FlatLayout target() {
    return (FlatLayout) model.target();
  }
}
