package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.PartitionedModel;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.LocalShardsStore;
import io.github.reshard.checkpoint.storage.NoTargetStore;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.checkpoint.zero.CheckpointFacts;
import io.github.reshard.checkpoint.zero.CheckpointFiles;
import io.github.reshard.checkpoint.zero.ReshardPlanner;
import io.github.reshard.checkpoint.zero.UserHints;
import io.github.reshard.checkpoint.zero.UserShards;
import io.github.reshard.checkpoint.zero.ZeroStage;
import io.github.reshard.pipeline.storage.Stores;
import io.github.reshard.transforms.Counters;
import io.github.reshard.transforms.JobConfig;
import io.github.reshard.transforms.KeptPlan;
import io.github.reshard.transforms.Proofs;
import io.github.reshard.transforms.ProveAndPublish;
import io.github.reshard.transforms.Slices;
import io.github.reshard.transforms.WriteParts;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.PipelineResult;
import org.apache.beam.sdk.metrics.MetricNameFilter;
import org.apache.beam.sdk.metrics.MetricQueryResults;
import org.apache.beam.sdk.metrics.MetricResult;
import org.apache.beam.sdk.metrics.MetricsFilter;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * The main job: one checkpoint from N ranks to M ranks.
 *
 * <p>Metadata is read and the plan is made here; then shards are spread out into slices, slices
 * grouped into full tensors, tensors cut for the target's ranks, and parts of files written;
 * checksums of what was read prove the source, checksums of what was written complete the files,
 * and when both hold the tag is published.
 */
public final class ReshardPipeline {
  private ReshardPipeline() {}

  /**
   * Runs the job to its end, whatever the runner, and returns what it did.
   *
   * @throws RefusedException if the input is refused
   * @throws OutputException if the output cannot be written
   * @throws JobStagedException if the runner wrote the job down instead of running it
   */
  public static ReshardReport run(ReshardOptions options, ProgressListener progress) {
    long begin = System.nanoTime();
    progress.phase("reading headers", 0);
    SourceStore source = Stores.source(options.getInput(), options);
    requireDistinct(options.getInput(), options.getOutput());
    try {
      Optional<UserShards> user = userShards(source, options);
      ReshardPlan plan = plan(source, user, options);
      TargetStore target = target(plan, user, options);
      target.begin();
      return move(plan, source, target, "moving bytes", options, progress, begin);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /**
   * Reads and proves a checkpoint as {@link #run} does, for the ranks that saved it, and writes
   * nothing.
   *
   * @throws RefusedException if the input is refused
   */
  public static ReshardReport check(ReshardOptions options, ProgressListener progress) {
    long begin = System.nanoTime();
    progress.phase("reading headers", 0);
    SourceStore source = Stores.source(options.getInput(), options);
    try {
      Optional<UserShards> user = userShards(source, options);
      options.setTargetWorldSize(savedBy(source, user, options));
      ReshardPlan plan = plan(source, user, options);
      return move(plan, source, new NoTargetStore(), "proving bytes", options, progress, begin);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** The data-parallel ranks that saved {@code --input}. */
  private static int savedBy(SourceStore source, Optional<UserShards> user, ReshardOptions options)
      throws IOException {
    if (user.isPresent()) {
      return user.get().shards().size();
    }
    CheckpointFiles files =
        CheckpointFiles.discover(
            source, Stores.directory(options.getInput()), Optional.ofNullable(options.getTag()));
    return Math.max(1, CheckpointFacts.read(source, files).dataParallelRanks());
  }

  /**
   * Does what was planned.
   *
   * @param target has begun
   * @param beginNanos when the whole of it began, as {@link System#nanoTime}
   */
  static ReshardReport move(
      ReshardPlan plan,
      SourceStore source,
      TargetStore target,
      String phase,
      ReshardOptions options,
      ProgressListener progress,
      long beginNanos) {
    JobConfig config = new JobConfig(options.getTrustMasters(), System.currentTimeMillis());
    progress.phase(phase, payloadBytes(plan));
    try {
      Pipeline pipeline = Pipeline.create(options);
      apply(pipeline, plan, source, target, config);
      PipelineResult result = pipeline.run();
      progress.running(result);
      PipelineResult.State state = waitFor(result);
      if (state != PipelineResult.State.DONE) {
        throw new IllegalStateException("the pipeline ended as " + state);
      }
      return report(plan, options, result, (System.nanoTime() - beginNanos) / 1e9);
    } catch (JobStagedException e) {
      throw e;
    } catch (RuntimeException e) {
      abandon(target, e);
      throw e;
    } catch (IOException e) {
      UncheckedIOException failure = new UncheckedIOException(e);
      abandon(target, failure);
      throw failure;
    }
  }

  private static PipelineResult.State waitFor(PipelineResult result) {
    try {
      return result.waitUntilFinish();
    } catch (UnsupportedOperationException e) {
      // So says DataflowRunner's result of a job that was written to --templateLocation.
      throw new JobStagedException(e);
    }
  }

  /** Plans what {@code options} ask for, and writes nothing. */
  static ReshardPlan plan(SourceStore source, ReshardOptions options) throws IOException {
    return plan(source, userShards(source, options), options);
  }

  static ReshardPlan plan(SourceStore source, Optional<UserShards> user, ReshardOptions options)
      throws IOException {
    if (user.isPresent()) {
      return ReshardPlanner.plan(
          source, user.get(), hints(options), options.getTargetWorldSize(), options.getPartBytes());
    }
    CheckpointFiles files =
        CheckpointFiles.discover(
            source, Stores.directory(options.getInput()), Optional.ofNullable(options.getTag()));
    if (options.getOutput() != null
        && Stores.isLocal(options.getInput())
        && Stores.isLocal(options.getOutput())) {
      requireApart(files, options.getOutput());
    }
    return ReshardPlanner.plan(
        source, files, options.getTargetWorldSize(), targetStage(options), options.getPartBytes());
  }

  static int targetStage(ReshardOptions options) {
    return options.getTargetStage() == null ? ZeroStage.AS_SAVED : options.getTargetStage();
  }

  static Optional<UserShards> userShards(SourceStore source, ReshardOptions options)
      throws IOException {
    if (options.getShards() != null && options.getTag() != null) {
      throw new RefusedException(
          options.getInput(), "--shards is for shards outside of a tag; leave --tag out.");
    }
    Optional<UserShards> user =
        options.getTag() == null
            ? UserShards.find(
                source,
                Stores.directory(options.getInput()),
                Optional.ofNullable(options.getShards()))
            : Optional.empty();
    if (user.isPresent() && options.getTargetStage() != null) {
      throw new RefusedException(
          options.getInput(),
          "--targetStage is for checkpoints of save_checkpoint; shards that were saved one by one stay at their stage.");
    }
    Map<String, String> hints = new LinkedHashMap<>();
    hints.put("--model", options.getModel());
    hints.put("--dsConfig", options.getDsConfig());
    hints.put("--paramGroups", options.getParamGroups());
    hints.put("--sanitize", options.getSanitize() ? "" : null);
    hints.values().removeIf(Objects::isNull);
    if (user.isEmpty() && !hints.isEmpty()) {
      throw new RefusedException(
          options.getInput(),
          "%s are for shards that were saved one by one, and none are here. A checkpoint of save_checkpoint says all that by itself; if these are shards, name them with --shards."
              .formatted(hints.keySet()));
    }
    return user;
  }

  private static UserHints hints(ReshardOptions options) {
    return new UserHints(
        Optional.ofNullable(options.getModel()),
        Optional.ofNullable(options.getDsConfig()),
        Optional.ofNullable(options.getParamGroups()),
        options.getTrustMasters(),
        options.getSanitize());
  }

  static TargetStore target(ReshardPlan plan, Optional<UserShards> user, ReshardOptions options) {
    if (user.isEmpty()) {
      return Stores.target(
          options.getOutput(), plan.tag(), options.getOverwrite(), TargetStore.LATEST, options);
    }
    if (!Stores.isLocal(options.getOutput())) {
      throw new OutputException(
          options.getOutput(),
          "shards without a tag can only be written to a local directory: in an object store nothing could make all of them visible at once. Write them locally and upload them.");
    }
    Set<String> names = new HashSet<>(Set.of(CheckpointFiles.MANIFEST));
    plan.targets().forEach(file -> names.add(file.path()));
    return new LocalShardsStore(
        Stores.directory(options.getOutput()), names, user.get().pattern(), options.getOverwrite());
  }

  private static void abandon(TargetStore target, RuntimeException failure) {
    try {
      target.abandon();
    } catch (IOException | RuntimeException e) {
      failure.addSuppressed(e);
    }
  }

  /**
   * Keeps the plan for the workers and builds the graph; what comes out last are the paths of the
   * published files.
   */
  static void apply(
      Pipeline pipeline, ReshardPlan plan, SourceStore source, TargetStore target, JobConfig config)
      throws IOException {
    PCollectionView<ReshardPlan> view = pipeline.apply("Plan", KeptPlan.of(plan, target));
    pipeline
        .apply("Slices", Slices.of(plan, view))
        .apply("WriteParts", new WriteParts(view, source, target, config.trustMasters()))
        .apply("ProveAndPublish", new ProveAndPublish(view, plan, source, target, config));
  }

  static void requireDistinct(String input, String output) {
    if (Stores.isWithin(output, input)) {
      throw new OutputException(
          output, "--output may not be --input nor lie in it; name another directory.");
    }
  }

  /** Whatever links there are on the way: nothing of the source may be replaced. */
  private static void requireApart(CheckpointFiles files, String output) throws IOException {
    Path source = Path.of(files.directory()).toRealPath();
    Path sourceTag = source.resolve(files.tag()).toRealPath();
    Path target = real(Path.of(Stores.directory(output)));
    Path targetTag = real(target.resolve(files.tag()));
    if (target.startsWith(sourceTag) || sourceTag.startsWith(targetTag)) {
      throw new OutputException(
          output, "--output and the checkpoint lie in one another; name another directory.");
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

  private static long payloadBytes(ReshardPlan plan) {
    return plan.targets().stream()
        .flatMap(file -> file.entries().stream())
        .mapToLong(entry -> entry.bytes())
        .sum();
  }

  private static ReshardReport report(
      ReshardPlan plan, ReshardOptions options, PipelineResult result, double seconds) {
    Proofs proofs = Proofs.of(plan);
    long disagreed = counter(result, Counters.PARAMETERS_DISAGREED);
    List<String> notes = new ArrayList<>(plan.notes());
    notes.addAll(proofs.notProven(disagreed));
    if (counter(result, Counters.LEFT_BEHIND) > 0) {
      notes.add(
          "the output is whole, but what it was made of could not all be removed; do so with: "
              + CommandName.typed()
              + " cleanup --output="
              + options.getOutput());
    }
    return new ReshardReport(
        plan.tag().isEmpty() ? options.getInput() : plan.tag(),
        plan.sourceWorldSize(),
        plan.targetWorldSize(),
        (int) plan.models().stream().map(PartitionedModel::mpRank).distinct().count(),
        plan.parallelism().pipelineDegree(),
        plan.parallelism().tensorDegree(),
        proofs.parameters(),
        proofs.elements(),
        counter(result, Counters.BYTES_READ),
        plan.targetBytes(),
        plan.targets().size(),
        seconds,
        options.getOutput(),
        proofs.proven(disagreed),
        notes);
  }

  static long counter(PipelineResult result, String name) {
    MetricQueryResults found =
        result
            .metrics()
            .queryMetrics(
                MetricsFilter.builder()
                    .addNameFilter(MetricNameFilter.named(Counters.NAMESPACE, name))
                    .build());
    long sum = 0;
    for (MetricResult<Long> counter : found.getCounters()) {
      sum += counter.getAttempted();
    }
    return sum;
  }
}
