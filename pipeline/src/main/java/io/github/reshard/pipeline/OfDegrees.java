package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.deepspeed.CheckpointFacts;

/** What a model file says of the grid that saved it, and not of the training state. */
final class OfDegrees {
  private static final String INFO = "universal_checkpoint_info.";

  private OfDegrees() {}

  /** Whether a value says how tensor-parallel ranks share parameters. */
  static boolean isInfo(String key) {
    return key.startsWith(INFO);
  }

  /** The facts without what is of one number of tensor-parallel ranks. */
  static CheckpointFacts without(CheckpointFacts facts) {
    return facts.withoutValues(OfDegrees::isInfo);
  }
}
