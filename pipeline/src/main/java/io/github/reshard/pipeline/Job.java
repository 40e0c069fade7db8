package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.parallel.ExpertTarget;
import io.github.reshard.checkpoint.parallel.PipelineMethods;
import io.github.reshard.checkpoint.parallel.PipelineScript;
import io.github.reshard.checkpoint.parallel.PipelineTarget;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.checkpoint.planner.Output;
import io.github.reshard.checkpoint.planner.Request;
import io.github.reshard.checkpoint.planner.TargetDegrees;
import io.github.reshard.checkpoint.planner.TensorHints;
import io.github.reshard.checkpoint.storage.LocalShardsStore;
import io.github.reshard.checkpoint.storage.Publishing;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.pipeline.storage.Stores;
import io.github.reshard.transforms.JobConfig;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import org.apache.beam.sdk.options.PipelineOptions;

/**
 * One reshard: what was found, what becomes of it, and where that goes. Each is resolved once,
 * here; of several targets of one checkpoint each has a job, and all have one source.
 *
 * @param source what was found
 * @param plan of its reshard
 * @param form what the output is made as: {@link JobConfig#AS_SAVED}, another ZeRO stage, another
 *     format, or shards without DeepSpeed's objects
 * @param latest the file that names its tag
 * @param output where that goes, if it goes anywhere
 */
record Job(Source source, ReshardPlan plan, String form, String latest, Optional<String> output) {

  /**
   * The job that {@code options} ask for. Nothing is written.
   *
   * @throws RefusedException if the input is refused
   * @throws OutputException if the output is part of it
   */
  static Job of(ReshardOptions options) throws IOException {
    requireDistinct(options.getInput(), options.getOutput());
    if (options.getTemplate() != null) {
      return TemplateJob.of(options);
    }
    return of(Source.ofInput(options), options);
  }

  /**
   * The jobs that {@code options} ask for: one for each number of ranks, all of one source. Nothing
   * is written.
   *
   * @throws RefusedException if the input is refused for one of them
   * @throws OutputException if the output is part of it
   */
  static List<Job> all(ReshardOptions options) throws IOException {
    CommandOptions asked = options.as(CommandOptions.class);
    if (!TargetSizes.areSeveral(asked)) {
      return List.of(of(options));
    }
    requireDistinct(options.getInput(), options.getOutput());
    if (options.getTemplate() != null) {
      throw new RefusedException(
          options.getTemplate(), "--template is for one --targetWorldSize at a time.");
    }
    Source source = Source.ofInput(options);
    Source once = source.readOnce();
    List<Job> jobs = new ArrayList<>();
    for (int ranks : TargetSizes.of(asked)) {
      Optional<String> output =
          Optional.ofNullable(options.getOutput()).map(to -> TargetSizes.output(asked, ranks));
      jobs.add(of(once, options, OptionalInt.of(ranks), output).of(source));
    }
    return jobs;
  }

  /** The ZeRO stage that is asked for, or {@link ZeroStage#AS_SAVED}. */
  static int stage(ReshardOptions options) {
    return options.getTargetStage() == null ? ZeroStage.AS_SAVED : options.getTargetStage();
  }

  /** The same job of what was found without what planning it kept in memory. */
  private Job of(Source found) {
    return new Job(found, plan, form, latest, output);
  }

  /** The job that {@code options} ask for, of {@code source}. */
  static Job of(Source source, ReshardOptions options) throws IOException {
    boolean ranksAreSaid =
        options.getTargetWorldSize() != null || options.as(CommandOptions.class).getGpus() != null;
    return of(
        source,
        options,
        ranksAreSaid ? OptionalInt.of(ranks(source, options)) : OptionalInt.empty(),
        Optional.ofNullable(options.getOutput()));
  }

  /**
   * What {@code options} ask for besides.
   *
   * @param ranks data-parallel ranks that will load, if they are said
   */
  private static Job of(
      Source source, ReshardOptions options, OptionalInt ranks, Optional<String> output)
      throws IOException {
    Formats.requireMeant(
        options.getInput(),
        Optional.ofNullable(options.getOutputFormat()),
        options.getDialect() != null || options.getFilesPerCheckpoint() != null,
        ranks.isPresent() || options.getTargetStage() != null);
    if (options.getOutputFormat() != null) {
      return inOtherFormat(source, options, ranks, output);
    }
    return of(
        source, ranks.getAsInt(), stage(options), degrees(options), output, options.getPartBytes());
  }

  /** The job of a format that was asked for by its name. */
  private static Job inOtherFormat(
      Source source, ReshardOptions options, OptionalInt ranks, Optional<String> output)
      throws IOException {
    if (output.isPresent()) {
      requireApart(source, output.get());
    }
    Integer files = options.getFilesPerCheckpoint();
    Output made =
        Formats.plan(
            source.found(),
            source.dataParallelRanks(),
            new Request(
                options.getOutputFormat(),
                ranks,
                stage(options),
                Optional.ofNullable(options.getDialect()),
                files == null ? OptionalInt.empty() : OptionalInt.of(files),
                options.getPartBytes()));
    return new Job(source, made.plan(), made.form(), made.latest(), output);
  }

  /**
   * The job that reads and proves {@code --input}, whoever saved it, and writes nothing.
   *
   * @throws RefusedException if it is refused
   */
  static Job ofProof(ReshardOptions options) throws IOException {
    Optional<Source> foreign = Source.foreign(options.getInput(), options.getTag(), options);
    if (foreign.isPresent()) {
      return new Job(
          foreign.get(),
          foreign
              .get()
              .plan(ReshardPlan.ANY_WORLD_SIZE, ZeroStage.AS_SAVED, options.getPartBytes()),
          JobConfig.AS_SAVED,
          TargetStore.LATEST,
          Optional.empty());
    }
    Source source = Source.ofInput(options);
    return of(
        source,
        source.dataParallelRanks(),
        ZeroStage.AS_SAVED,
        Optional.empty(),
        options.getPartBytes());
  }

  /** The other degrees of parallelism that are asked for. */
  static TargetDegrees degrees(ReshardOptions options) {
    Integer size = options.getTargetExpertParallelSize();
    if (size == null && options.getMaxGroupSize() != null) {
      throw new RefusedException(
          options.getInput(), "--maxGroupSize goes with --targetExpertParallelSize.");
    }
    return new TargetDegrees(
        tensor(options),
        Optional.ofNullable(size)
            .map(of -> new ExpertTarget(of, number(options.getMaxGroupSize()))),
        pipeline(options));
  }

  private static Optional<TensorHints> tensor(ReshardOptions options) {
    Integer ranks = options.getTargetTensorParallelSize();
    if (ranks == null) {
      if (options.getTpRules() != null
          || options.getKvHeads() != null
          || options.getVocabularyMultiple() != null) {
        throw new RefusedException(
            options.getInput(),
            "--tpRules, --kvHeads and --vocabularyMultiple go with --targetTensorParallelSize.");
      }
      return Optional.empty();
    }
    return Optional.of(
        new TensorHints(
            ranks,
            Optional.ofNullable(options.getTpRules()),
            number(options.getKvHeads()),
            number(options.getVocabularyMultiple())));
  }

  private static OptionalInt number(Integer option) {
    return option == null ? OptionalInt.empty() : OptionalInt.of(option);
  }

  private static Optional<PipelineTarget> pipeline(ReshardOptions options) {
    Integer stages = options.getTargetPipelineParallelSize();
    String parts = options.getPipelineParts();
    String method = options.getPipelineMethod();
    try {
      if (parts != null && method != null) {
        throw new IllegalArgumentException(
            "--pipelineParts and --pipelineMethod both say how layers are divided; give one of"
                + " them");
      }
      if (stages == null) {
        if (parts != null || method != null || options.getPipelineLayers() != null) {
          throw new IllegalArgumentException(
              "--pipelineParts, --pipelineMethod and --pipelineLayers go with"
                  + " --targetPipelineParallelSize");
        }
        return Optional.empty();
      }
      return Optional.of(
          new PipelineTarget(
              stages,
              parts != null
                  ? Optional.of(PipelineMethods.parts(parts))
                  : Optional.ofNullable(method).map(PipelineMethods::of),
              options.getPipelineLayers() == null
                  ? PipelineScript.NOT_SAID
                  : PipelineScript.parse(options.getPipelineLayers())));
    } catch (IllegalArgumentException e) {
      throw new RefusedException(options.getInput(), e.getMessage() + ".", e);
    }
  }

  /** A job that leaves all degrees but the data-parallel one as saved. */
  static Job of(
      Source source, int targetWorldSize, int targetStage, Optional<String> output, long partBytes)
      throws IOException {
    return of(source, targetWorldSize, targetStage, TargetDegrees.AS_SAVED, output, partBytes);
  }

  /**
   * @param targetWorldSize data-parallel ranks that will load
   * @param targetStage the ZeRO stage, or {@link ZeroStage#AS_SAVED}
   */
  static Job of(
      Source source,
      int targetWorldSize,
      int targetStage,
      TargetDegrees degrees,
      Optional<String> output,
      long partBytes)
      throws IOException {
    if (output.isPresent() && !source.isBare()) {
      requireApart(source, output.get());
    }
    ReshardPlan plan = source.plan(targetWorldSize, targetStage, degrees, partBytes);
    return new Job(source, plan, form(source, targetStage, degrees), TargetStore.LATEST, output);
  }

  private static String form(Source source, int targetStage, TargetDegrees degrees)
      throws IOException {
    String ofStage = form(source, targetStage);
    if (degrees.isAsSaved()) {
      return ofStage;
    }
    return ofStage.equals(JobConfig.AS_SAVED) ? degrees.form() : ofStage + ", " + degrees.form();
  }

  /** What the output is made as where no stage is asked for, of a checkpoint with a tag. */
  static String form(ReshardOptions options) {
    return options.getOutputFormat() == null
        ? JobConfig.AS_SAVED
        : Formats.form(options.getOutputFormat(), Optional.ofNullable(options.getDialect()));
  }

  /** To ask for the stage that it has changes nothing. */
  static String form(Source source, int targetStage) throws IOException {
    if (source.isBare() && source.hints().sanitize()) {
      return "sanitized";
    }
    return targetStage == ZeroStage.AS_SAVED || targetStage == source.facts().stage()
        ? JobConfig.AS_SAVED
        : "ZeRO-" + targetStage;
  }

  /**
   * The data-parallel ranks that will load, by {@code --targetWorldSize} or {@code --gpus}.
   *
   * @throws RefusedException if the GPUs do not make a whole number of them
   */
  static int ranks(Source source, ReshardOptions options) throws IOException {
    Integer gpus = options.as(CommandOptions.class).getGpus();
    return gpus == null
        ? options.getTargetWorldSize()
        : GpuCount.dataParallelRanks(
            source,
            gpus,
            Optional.ofNullable(options.getTargetPipelineParallelSize()),
            Optional.ofNullable(options.getTargetTensorParallelSize()));
  }

  /**
   * How to write the output, which must be there; nothing is written yet.
   *
   * @param overwrite whether what is there is replaced
   * @param options of the pipeline, for Beam's file systems
   * @throws OutputException if it cannot go there
   */
  TargetStore target(boolean overwrite, PipelineOptions options) {
    return target(Publishing.of(overwrite), options);
  }

  /** The same, by a run that says how it publishes. */
  TargetStore target(Publishing publishing, PipelineOptions options) {
    String to = output.orElseThrow();
    if (!source.isBare()) {
      return Stores.target(to, plan.tag(), latest, publishing, options);
    }
    if (!Stores.isLocal(to)) {
      throw new OutputException(
          to,
          "shards without a tag can only be written to a local directory: in an object store"
              + " nothing could make all of them visible at once. Write them locally and upload"
              + " them.");
    }
    Set<String> names = new HashSet<>(Set.of(CheckpointFiles.MANIFEST));
    plan.targets().forEach(file -> names.add(file.path()));
    return new LocalShardsStore(
        Stores.directory(to),
        names,
        source.found().bare().orElseThrow().pattern(),
        publishing.overwrite());
  }

  /** What moves, in bytes. */
  long payloadBytes() {
    return plan.targets().stream()
        .flatMap(file -> file.entries().stream())
        .mapToLong(entry -> entry.bytes())
        .sum();
  }

  /**
   * @throws OutputException if {@code output} is {@code input} or lies in it
   */
  static void requireDistinct(String input, String output) {
    if (output != null && Stores.isWithin(output, input)) {
      throw new OutputException(
          output, "--output may not be --input nor lie in it; name another directory.");
    }
  }

  /**
   * Whatever links there are on the way: nothing of the source may be replaced.
   *
   * @throws OutputException if {@code output} and the checkpoint lie in one another
   */
  static void requireApart(Source source, String output) throws IOException {
    if (!Stores.isLocal(source.location()) || !Stores.isLocal(output)) {
      return;
    }
    CheckpointFiles files = source.files();
    Path target = real(Path.of(Stores.directory(output)));
    Path targetTag = real(target.resolve(files.tag()));
    for (String directory : Stores.directories(files.directory())) {
      Path sourceTag = real(Path.of(directory).resolve(files.tag()));
      if (target.startsWith(sourceTag) || sourceTag.startsWith(targetTag)) {
        throw new OutputException(
            output, "--output and the checkpoint lie in one another; name another directory.");
      }
    }
  }

  /** The path with its links followed, as far as it exists. */
  private static Path real(Path path) throws IOException {
    Path absolute = path.toAbsolutePath().normalize();
    if (Files.exists(absolute) || absolute.getParent() == null) {
      return absolute.toRealPath();
    }
    return real(absolute.getParent()).resolve(absolute.getFileName());
  }
}
