package io.github.reshard.checkpoint.deepspeed;

import java.util.Optional;

/**
 * What a user adds to shards that do not say it themselves. A file is looked for beside the shards
 * first.
 *
 * @param model a state dict of the model
 * @param dsConfig the DeepSpeed configuration of the run
 * @param paramGroups a JSON list with the names of each param group, in the order in which the
 *     optimizer was given them
 * @param trustMasters whether masters that do not give the model's weights are taken all the same
 * @param sanitize whether the output has dicts and numbers in the place of DeepSpeed's own objects
 */
public record UserHints(
    Optional<String> model,
    Optional<String> dsConfig,
    Optional<String> paramGroups,
    boolean trustMasters,
    boolean sanitize) {
  /** Nothing is added. */
  public static final UserHints NONE =
      new UserHints(Optional.empty(), Optional.empty(), Optional.empty(), false, false);
}
