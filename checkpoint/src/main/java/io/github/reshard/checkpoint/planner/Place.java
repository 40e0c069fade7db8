package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.util.Optional;

/**
 * Where a checkpoint is looked for.
 *
 * @param store reads the files there
 * @param directory where
 * @param tag the checkpoint inside it, or empty for what {@code latest} says
 * @param shards the names of shards that were saved one by one, if they were said
 * @param hints what the user adds to such shards
 */
public record Place(
    SourceStore store,
    String directory,
    Optional<String> tag,
    Optional<String> shards,
    UserHints hints) {
  /** The directory of the tag, if there is one. */
  String inside() {
    return tag.isEmpty() ? directory : store.child(directory, tag.get());
  }
}
