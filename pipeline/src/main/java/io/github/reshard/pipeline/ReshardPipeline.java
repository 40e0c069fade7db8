package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.follow.Look;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.NoTargetStore;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.transforms.Counters;
import io.github.reshard.transforms.JobConfig;
import io.github.reshard.transforms.Keyed;
import io.github.reshard.transforms.PlanItem;
import io.github.reshard.transforms.PlanItems;
import io.github.reshard.transforms.Proofs;
import io.github.reshard.transforms.ProveAndPublish;
import io.github.reshard.transforms.Reshard;
import io.github.reshard.transforms.Reshards;
import io.github.reshard.transforms.Slices;
import io.github.reshard.transforms.WriteParts;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.PipelineResult;
import org.apache.beam.sdk.metrics.MetricNameFilter;
import org.apache.beam.sdk.metrics.MetricQueryResults;
import org.apache.beam.sdk.metrics.MetricResult;
import org.apache.beam.sdk.metrics.MetricsFilter;
import org.apache.beam.sdk.values.PCollection;

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
    return runAll(options, progress).get(0);
  }

  /**
   * The same, for each number of ranks that is asked for: one graph makes all outputs.
   *
   * @throws RefusedException if the input is refused
   * @throws OutputException if an output cannot be written
   * @throws JobStagedException if the runner wrote the job down instead of running it
   */
  public static List<ReshardReport> runAll(ReshardOptions options, ProgressListener progress) {
    long begin = System.nanoTime();
    progress.phase("reading headers", 0);
    try {
      List<Placed> placed = new ArrayList<>();
      for (Job job : planned(options, progress)) {
        placed.add(new Placed(job, job.target(options.getOverwrite(), options)));
      }
      begin(placed);
      return move(placed, "moving bytes", options, progress, begin);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /**
   * A job and where its output is written.
   *
   * @param target as {@link Job#target} gives it, or one that writes nothing
   */
  private record Placed(Job job, TargetStore target) {}

  /** All of them, or none. */
  private static void begin(List<Placed> placed) throws IOException {
    List<Placed> begun = new ArrayList<>();
    try {
      for (Placed one : placed) {
        one.target().begin();
        begun.add(one);
      }
    } catch (IOException | RuntimeException e) {
      abandon(begun, e);
      throw e;
    }
  }

  /** What is being saved at this moment is waited for, or refused with what grows. */
  private static List<Job> planned(ReshardOptions options, ProgressListener progress)
      throws IOException {
    Saving saving = Saving.of(options);
    if (options.getWait() != null) {
      progress.phase("waiting until it is whole", 0);
      saving.await(options.getWait());
      progress.phase("reading headers", 0);
    }
    Optional<Look> before = saving.look();
    try {
      return Job.all(options);
    } catch (RefusedException e) {
      throw saving.because(before, e);
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
    try {
      Job job = Job.ofProof(options);
      return move(job, new NoTargetStore(), "proving bytes", options, progress, begin);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /**
   * Does a job.
   *
   * @param target has begun
   * @param beginNanos when the whole of it began, as {@link System#nanoTime}
   */
  static ReshardReport move(
      Job job,
      TargetStore target,
      String phase,
      ReshardOptions options,
      ProgressListener progress,
      long beginNanos) {
    return move(List.of(new Placed(job, target)), phase, options, progress, beginNanos).get(0);
  }

  private static List<ReshardReport> move(
      List<Placed> placed,
      String phase,
      ReshardOptions options,
      ProgressListener progress,
      long beginNanos) {
    progress.phase(phase, placed.stream().mapToLong(one -> one.job().payloadBytes()).sum());
    try {
      Pipeline pipeline = Pipeline.create(options);
      List<Reshard> reshards = new ArrayList<>();
      Map<String, ReshardPlan> plans = new LinkedHashMap<>();
      for (Placed one : placed) {
        String key = newKey();
        JobConfig config =
            new JobConfig(
                options.getTrustMasters(), one.job().form(), System.currentTimeMillis(), key, true);
        Reshard reshard =
            Reshard.keep(key, one.job().plan(), one.job().source().store(), one.target(), config);
        reshards.add(reshard);
        plans.put(reshard.key(), one.job().plan());
      }
      apply(pipeline.apply("Plan", PlanItems.ofAll(plans)), Reshards.of(reshards));
      PipelineResult result = pipeline.run();
      progress.running(result);
      PipelineResult.State state = waitFor(result);
      if (state != PipelineResult.State.DONE) {
        throw new IllegalStateException("the pipeline ended as " + state);
      }
      double seconds = (System.nanoTime() - beginNanos) / 1e9;
      List<ReshardReport> reports = new ArrayList<>();
      for (int i = 0; i < placed.size(); i++) {
        reports.add(report(placed.get(i), reshards.get(i), options, result, seconds));
      }
      return reports;
    } catch (JobStagedException e) {
      throw e;
    } catch (RuntimeException e) {
      abandon(placed, e);
      throw e;
    } catch (IOException e) {
      UncheckedIOException failure = new UncheckedIOException(e);
      abandon(placed, failure);
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
    return Job.of(Source.ofInput(source, options), options).plan();
  }

  private static void abandon(List<Placed> begun, Exception failure) {
    for (Placed one : begun) {
      try {
        one.target().abandon();
      } catch (IOException | RuntimeException e) {
        failure.addSuppressed(e);
      }
    }
  }

  /**
   * Keeps the plan for the workers and builds the graph; what comes out last are the paths of the
   * published files.
   */
  static void apply(
      Pipeline pipeline, ReshardPlan plan, SourceStore source, TargetStore target, JobConfig config)
      throws IOException {
    Reshard reshard = Reshard.keep(newKey(), plan, source, target, config);
    apply(
        pipeline.apply("Plan", PlanItems.ofAll(Map.of(reshard.key(), plan))),
        Reshards.of(List.of(reshard)));
  }

  /** The one graph, of a checkpoint as of many. */
  static void apply(PCollection<Keyed<PlanItem>> items, Reshards reshards) {
    items
        .apply("Slices", Slices.of(reshards))
        .apply("WriteParts", new WriteParts(reshards))
        .apply("ProveAndPublish", new ProveAndPublish(reshards, items));
  }

  /** What no other reshard is called, in this process or another. */
  static String newKey() {
    return UUID.randomUUID().toString().substring(0, 8);
  }

  private static ReshardReport report(
      Placed placed, Reshard reshard, ReshardOptions options, PipelineResult result, double seconds)
      throws IOException {
    Job job = placed.job();
    ReshardPlan plan = job.plan();
    Proofs proofs = Proofs.of(plan);
    long disagreed = counter(result, Counters.of(reshard, Counters.PARAMETERS_DISAGREED));
    List<String> notes = new ArrayList<>(plan.notes());
    boolean publishedBefore = counter(result, Counters.of(reshard, Counters.PUBLISHED_BEFORE)) > 0;
    if (publishedBefore) {
      ReshardedOutput output = new ReshardedOutput(job.output().orElseThrow(), options);
      if (!output.isMade(plan.tag())) {
        throw new OutputException(job.output().orElseThrow(), ReshardedOutput.DAMAGED);
      }
      // What the worker that died had counted is lost.
      disagreed = output.disagreed(plan.tag());
      placed.target().abandon();
      notes.add(
          "a worker died between publishing and the end of the job, which was started again and"
              + " found its output whole");
    }
    notes.addAll(proofs.notProven(disagreed));
    if (publishedBefore || counter(result, Counters.of(reshard, Counters.LEFT_BEHIND)) > 0) {
      notes.add(
          "the output is whole, but what it was made of could not all be removed; do so with: "
              + CommandName.typed()
              + " cleanup --output="
              + job.output().orElse(""));
    }
    return new ReshardReport(
        tag(job),
        plan.savedRanks(),
        plan.targetWorldSize(),
        plan.parallelism().target().modelRanks(),
        plan.parallelism().target().pipelineDegree(),
        plan.parallelism().target().tensorDegree(),
        plan.grids(),
        proofs.parameters(),
        proofs.elements(),
        counter(result, Counters.of(reshard, Counters.BYTES_READ)),
        plan.targetBytes(),
        plan.targets().size(),
        seconds,
        job.output().orElse(null),
        proofs.proven(disagreed),
        notes);
  }

  /** An export has no tag of its own; shards that were saved one by one have none at all. */
  private static String tag(Job job) {
    String ofSource = job.source().files().tag();
    return !job.plan().tag().isEmpty()
        ? job.plan().tag()
        : ofSource.isEmpty() ? job.source().location() : ofSource;
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
