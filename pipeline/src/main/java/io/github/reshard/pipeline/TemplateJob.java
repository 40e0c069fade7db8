package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.pipeline.storage.Stores;
import java.io.IOException;
import java.util.Optional;

/** The job whose input does not say all that its output needs, which a template says. */
final class TemplateJob {
  private TemplateJob() {}

  /** Files of DeepSpeed, of the checkpoint of another trainer that is {@code --input}. */
  static Job of(ReshardOptions options) throws IOException {
    if (options.getOutputFormat() != null) {
      throw new RefusedException(
          options.getInput(),
          "with --template files of save_checkpoint are made, of an --input that another trainer"
              + " saved; leave --outputFormat out. From one distributed checkpoint to another no"
              + " tool is needed: every loader cuts it for its own ranks.");
    }
    if (Stores.isLocal(options.getInput()) != Stores.isLocal(options.getTemplate())) {
      throw new RefusedException(
          options.getInput(),
          "--input is local and --template is not, or the other way round, and one store reads"
              + " both. Copy one of the two.");
    }
    Source template = Source.find(options.getTemplate(), null, options);
    Optional<String> output = Optional.ofNullable(options.getOutput());
    if (template.isBare()) {
      throw new RefusedException(
          template.location(),
          "--template is a checkpoint of save_checkpoint; shards that were saved one by one are"
              + " none.");
    }
    if (output.isPresent()) {
      Job.requireDistinct(options.getTemplate(), output.get());
      Job.requireApart(template, output.get());
    }
    String directory = Stores.directory(options.getInput());
    return new Job(
        template,
        Formats.filled(
                options.getTag() == null
                    ? directory
                    : template.store().child(directory, options.getTag()),
                template.found())
            .plan(Job.ranks(template, options), Job.stage(options), options.getPartBytes()),
        Job.form(template, Job.stage(options)),
        TargetStore.LATEST,
        output);
  }
}
