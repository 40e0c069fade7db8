package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.pipeline.storage.Stores;
import java.util.List;
import java.util.stream.Stream;

/** The numbers of data-parallel ranks that are asked for, and where the output of each goes. */
final class TargetSizes {
  private TargetSizes() {}

  /** All of them; what is the same for any number is one of {@link ReshardPlan#ANY_WORLD_SIZE}. */
  static List<Integer> of(CommandOptions options) {
    if (options.getTargetWorldSizes() != null) {
      return Stream.of(options.getTargetWorldSizes().split(",")).map(Integer::valueOf).toList();
    }
    return List.of(
        options.getTargetWorldSize() == null
            ? ReshardPlan.ANY_WORLD_SIZE
            : options.getTargetWorldSize());
  }

  /** Whether each has a directory of its own in the output. */
  static boolean areSeveral(CommandOptions options) {
    return of(options).size() > 1;
  }

  /** Where the output for {@code ranks} goes: {@code --output}, or a directory in it. */
  static String output(CommandOptions options, int ranks) {
    String output = Stores.directory(options.getOutput());
    return areSeveral(options)
        ? Stores.source(output, options).child(output, "world-" + ranks)
        : output;
  }
}
