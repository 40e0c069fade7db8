package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpCheckpoint;
import io.github.reshard.checkpoint.dcp.DcpDialect;
import io.github.reshard.checkpoint.dcp.DcpLayout;
import io.github.reshard.checkpoint.dcp.DcpMetadata;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.DcpCheck;
import io.github.reshard.checkpoint.planner.DcpPlanner;
import io.github.reshard.checkpoint.planner.DcpReader;
import io.github.reshard.checkpoint.shards.UserHints;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.pipeline.storage.Stores;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.Arrays;
import java.util.Optional;

/** Jobs from DeepSpeed's files to a distributed checkpoint of PyTorch, and back. */
final class DcpJobs {
  private static final String SAFETENSORS = ".safetensors";

  private DcpJobs() {}

  /** Whether the output of {@code plan} is a distributed checkpoint. */
  static boolean writesDcp(ReshardPlan plan) {
    return plan.targets().stream().anyMatch(file -> file.name().equals(DcpMetadata.FILE_NAME));
  }

  /** Whether the source of {@code plan} is a distributed checkpoint, which has no ranks. */
  static boolean readsDcp(ReshardPlan plan) {
    return plan.sourceWorldSize() == ReshardPlan.ANY_WORLD_SIZE
        || plan.models().stream().anyMatch(model -> model.source() instanceof DcpLayout);
  }

  /**
   * @throws RefusedException if options are given that mean nothing without another one
   */
  static void requireMeant(ReshardOptions options) {
    boolean dcp = ReshardOptions.DCP.equals(options.getOutputFormat());
    if (!dcp && (options.getDialect() != null || options.getFilesPerCheckpoint() != null)) {
      throw new RefusedException(
          options.getInput(),
          "--dialect and --filesPerCheckpoint are for --outputFormat=dcp, which is not given.");
    }
    if (dcp && (options.getTargetWorldSize() != null || options.getTargetStage() != null)) {
      throw new RefusedException(
          options.getInput(),
          "a distributed checkpoint is the same for any number of ranks and has no ZeRO stage;"
              + " leave --targetWorldSize and --targetStage out.");
    }
  }

  /** A distributed checkpoint of {@code source}. */
  static Job out(Source source, ReshardOptions options) throws IOException {
    if (source.user().isPresent()) {
      throw new RefusedException(
          source.location(),
          "a distributed checkpoint needs the model files of save_checkpoint, which shards that"
              + " were saved one by one do not have; leave --outputFormat out.");
    }
    Optional<String> output = Optional.ofNullable(options.getOutput());
    if (output.isPresent() && Stores.isLocal(source.location()) && Stores.isLocal(output.get())) {
      Job.requireApart(source.files(), output.get());
    }
    DcpDialect dialect = dialect(options);
    int files = options.getFilesPerCheckpoint() == null ? 0 : options.getFilesPerCheckpoint();
    return new Job(
        source,
        DcpPlanner.plan(source.store(), source.files(), dialect, files, options.getPartBytes()),
        form(options),
        output);
  }

  private static DcpDialect dialect(ReshardOptions options) {
    return Arrays.stream(DcpDialect.values())
        .filter(of -> of.optionName().equals(options.getDialect()))
        .findFirst()
        .orElse(DcpDialect.TORCH);
  }

  /** What the output is made as. */
  static String form(ReshardOptions options) {
    return ReshardOptions.DCP + ", " + dialect(options).optionName();
  }

  /** Files of DeepSpeed, of the distributed checkpoint that is {@code --input}. */
  static Job in(ReshardOptions options) throws IOException {
    if (options.getOutputFormat() != null && options.getOutputFormat().equals(ReshardOptions.DCP)) {
      throw new RefusedException(
          options.getInput(),
          "--template is for an --input that is a distributed checkpoint, and from one of these to"
              + " another no tool is needed: every loader cuts it for its own ranks.");
    }
    if (Stores.isLocal(options.getInput()) != Stores.isLocal(options.getTemplate())) {
      throw new RefusedException(
          options.getInput(),
          "--input is local and --template is not, or the other way round, and one store reads"
              + " both. Copy one of the two.");
    }
    Source template = Source.find(options.getTemplate(), null, options);
    Optional<String> output = Optional.ofNullable(options.getOutput());
    if (template.user().isPresent()) {
      throw new RefusedException(
          template.location(),
          "--template is a checkpoint of save_checkpoint; shards that were saved one by one are"
              + " none.");
    }
    if (output.isPresent()) {
      Job.requireDistinct(options.getTemplate(), output.get());
      if (Stores.isLocal(output.get())) {
        Job.requireApart(template.files(), output.get());
      }
    }
    SourceStore store = template.store();
    int targetStage =
        options.getTargetStage() == null ? ZeroStage.AS_SAVED : options.getTargetStage();
    return new Job(
        template,
        DcpReader.plan(
            store,
            find(store, options.getInput(), options.getTag()),
            template.files(),
            Job.ranks(template, options),
            targetStage,
            options.getPartBytes()),
        Job.form(template, targetStage),
        output);
  }

  /**
   * The proof of the distributed checkpoint that is {@code --input}, if it is one.
   *
   * @throws RefusedException if it is one that is not whole or not understood
   */
  static Optional<Job> check(ReshardOptions options) throws IOException {
    Optional<DcpCheckpoint> dcp = at(options.getInput(), options.getTag(), options);
    if (dcp.isEmpty()) {
      return Optional.empty();
    }
    SourceStore store = Stores.source(options.getInput(), options);
    Source source =
        new Source(
            dcp.get().path(),
            store,
            CheckpointFiles.none(dcp.get().path()),
            Optional.empty(),
            UserHints.NONE,
            Optional.empty());
    return Optional.of(
        new Job(
            source,
            DcpCheck.plan(store, dcp.get(), options.getPartBytes()),
            ReshardOptions.DCP,
            Optional.empty()));
  }

  private static DcpCheckpoint find(SourceStore store, String location, String tag)
      throws IOException {
    String directory = Stores.directory(location);
    String path = tag == null ? directory : store.child(directory, tag);
    Optional<DcpCheckpoint> found = DcpCheckpoint.find(store, path);
    if (found.isEmpty()
        && store.list(path).files().stream().anyMatch(f -> f.name().endsWith(SAFETENSORS))) {
      throw new RefusedException(
          path,
          "holds safetensors, as PyTorch's HuggingFaceStorageWriter and save_pretrained write them:"
              + " weights alone, and no optimizer's state is made up. Load them into the model"
              + " before deepspeed.initialize; no template is needed for that.");
    }
    return found.orElseThrow(
        () ->
            new RefusedException(
                path,
                "expected a distributed checkpoint of PyTorch, which has a file %s, found none. --template is for these; leave it out for a checkpoint of DeepSpeed, or name the directory of one step, or its name with --tag."
                    .formatted(DcpMetadata.FILE_NAME)));
  }

  /**
   * The distributed checkpoint that a location means, if it means one.
   *
   * @param tag a directory in it, or null
   */
  static Optional<DcpCheckpoint> at(String location, String tag, ReshardOptions options)
      throws IOException {
    SourceStore store = Stores.source(location, options);
    String directory = Stores.directory(location);
    try {
      return DcpCheckpoint.find(store, tag == null ? directory : store.child(directory, tag));
    } catch (NoSuchFileException | FileNotFoundException | NotDirectoryException e) {
      return Optional.empty(); // what else it may mean is found out by whoever asks
    }
  }

  /** Finds the files of a checkpoint of DeepSpeed. */
  interface Discovering {
    CheckpointFiles files() throws IOException;
  }

  /**
   * What {@code discovering} finds.
   *
   * @throws RefusedException if it finds nothing; if there is a distributed checkpoint, with the
   *     way to take it along
   */
  static CheckpointFiles orRefused(SourceStore store, String directory, Discovering discovering)
      throws IOException {
    try {
      return discovering.files();
    } catch (RefusedException e) {
      try {
        if (DcpCheckpoint.find(store, directory).isEmpty()) {
          throw e;
        }
      } catch (IOException noDirectory) {
        throw e;
      }
      throw new RefusedException(
          directory,
          "this is a distributed checkpoint of PyTorch, which does not say all that DeepSpeed"
              + " needs. Let the run that will load it save once after one step, and name the"
              + " directory of that with --template. From one distributed checkpoint to another no"
              + " tool is needed.",
          e);
    }
  }
}
