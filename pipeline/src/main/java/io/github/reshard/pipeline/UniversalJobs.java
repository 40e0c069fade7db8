package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.planner.ReshardPlanner;
import io.github.reshard.pipeline.storage.Stores;
import java.io.IOException;
import java.util.Optional;

/** Jobs from DeepSpeed's files to a Universal Checkpoint. */
final class UniversalJobs {
  private UniversalJobs() {}

  /** A Universal Checkpoint of {@code source}. */
  static Job out(Source source, ReshardOptions options) throws IOException {
    if (source.user().isPresent()) {
      throw new RefusedException(
          source.location(),
          "a Universal Checkpoint needs the model files of save_checkpoint, which shards that were saved one by one do not have; leave --outputFormat out.");
    }
    Optional<String> output = Optional.ofNullable(options.getOutput());
    if (output.isPresent() && Stores.isLocal(source.location()) && Stores.isLocal(output.get())) {
      Job.requireApart(source.files(), output.get());
    }
    boolean ranksAreSaid =
        options.getTargetWorldSize() != null || options.as(CommandOptions.class).getGpus() != null;
    return new Job(
        source,
        ReshardPlanner.planUniversal(
            source.store(),
            source.files(),
            ranksAreSaid ? Optional.of(Job.ranks(source, options)) : Optional.empty(),
            Job.stage(options),
            options.getPartBytes()),
        ReshardOptions.UNIVERSAL,
        output);
  }
}
