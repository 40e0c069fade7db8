package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.storage.JobDirectory;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.checkpoint.storage.Publishing;
import io.github.reshard.pipeline.FollowEvent.Kind;
import io.github.reshard.pipeline.storage.Stores;
import io.github.reshard.transforms.Keyed;
import io.github.reshard.transforms.PlanItem;
import io.github.reshard.transforms.PlanItems;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Optional;
import java.util.Set;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.PipelineResult;
import org.apache.beam.sdk.coders.StringUtf8Coder;
import org.apache.beam.sdk.transforms.Create;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.PCollection;

/**
 * Follows a training run: each checkpoint is resharded as soon as it is whole, by the graph of the
 * main job with an unbounded beginning.
 *
 * <p>Nothing but the output says what was done: a job that begins finds there what stands already.
 */
public final class FollowPipeline {
  /** For tests, in milliseconds: how long a step waits before its second try. */
  static final String RETRY_PROPERTY = "reshard.retryMillis";

  private static final long RETRY_MILLIS = 1_000;
  private static final long HEAR_MILLIS = 100;

  /** A job that was asked to stop is given so long; then it is ended. */
  private static final long STOP_MILLIS = 8_000;

  /** Some runners end by themselves when their source has, and some do not. */
  private static final long ENDING_MILLIS = 3_000;

  /** A runner that says nothing for so long is taken for dead. */
  private static final long SILENCE_MILLIS = 120_000;

  private FollowPipeline() {}

  /**
   * Follows until it ends by {@code --until}, is asked to stop, or the output fails.
   *
   * @param stop whether it is asked to stop
   * @param events hears what happens; the last is {@link Kind#OVER} or {@link Kind#FAILED}
   * @throws OutputException if the output cannot be written, or another job follows into it
   * @throws JobStagedException if the runner wrote the job down instead of running it
   */
  public static void run(
      CommandOptions options, BooleanSupplier stop, Consumer<FollowEvent> events) {
    String run = Publishing.newRun();
    try {
      Job.requireDistinct(options.getInput(), options.getOutput());
      JobDirectory directory = Stores.jobDirectory(options.getOutput(), options);
      directory.acquire(run);
      boolean staged = false;
      try {
        FollowedReshards reshards =
            new FollowedReshards(directory, Long.getLong(RETRY_PROPERTY, RETRY_MILLIS));
        reshards.abandonEarlier();
        directory.clear();
        clearLeftovers(options, events);
        Pipeline pipeline = Pipeline.create(options);
        build(pipeline, reshards, run);
        PipelineResult result = pipeline.run();
        try {
          await(result, directory, stop, events);
        } finally {
          end(result);
          for (String key : reshards.underWay(run)) {
            reshards.abandon(key);
          }
        }
      } catch (UnsupportedOperationException e) {
        // So says DataflowRunner's result of a job that was written to --templateLocation. When
        // that
        // is started, it finds that the output is its own, if nobody has taken it meanwhile.
        staged = true;
        throw new JobStagedException(e);
      } finally {
        if (!staged) {
          directory.release(run);
        }
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** The graph. */
  static void build(Pipeline pipeline, FollowedReshards reshards, String run) {
    PCollection<Keyed<PlanItem>> items =
        pipeline
            .apply("Run", Create.of(run).withCoder(StringUtf8Coder.of()))
            .apply("Follow", ParDo.of(new FollowRun(reshards)))
            .setCoder(PlanItems.coder());
    ReshardPipeline.apply(items, reshards);
  }

  /** What earlier jobs left; that of a tag that was half published goes when that is repaired. */
  private static void clearLeftovers(CommandOptions options, Consumer<FollowEvent> events)
      throws IOException {
    for (int ranks : TargetSizes.of(options)) {
      try {
        for (Leftovers.Removed removed :
            Stores.removeLeftovers(
                TargetSizes.output(options, ranks), Set.of(JobDirectory.NAME), options)) {
          events.accept(
              FollowEvent.of(Kind.NOTE, "", "removed what a job left: " + removed.where()));
        }
      } catch (OutputException e) {
        // Nothing is there yet, or somebody is at work, or a tag is half published: not to be
        // cleared.
      }
    }
  }

  private static void await(
      PipelineResult result,
      JobDirectory directory,
      BooleanSupplier stop,
      Consumer<FollowEvent> events)
      throws IOException {
    FollowNews news = new FollowNews(directory);
    long stoppedNanos = 0;
    long heardNanos = System.nanoTime();
    while (true) {
      // Asked first: what was said before it ended is heard then.
      Optional<PipelineResult.State> state = state(result);
      for (FollowEvent event : news.hear()) {
        events.accept(event);
        if (event.kind() == Kind.OVER || event.kind() == Kind.FAILED) {
          return;
        }
      }
      boolean ended = state.filter(PipelineResult.State::isTerminal).isPresent();
      if (ended && stop.getAsBoolean()) {
        events.accept(FollowEvent.of(Kind.OVER, "", "asked to stop, and the runner ended at once"));
        return;
      }
      if (ended) {
        result.waitUntilFinish(); // throws what ended it, if the runner knows that
        throw new IllegalStateException("the pipeline ended as " + state.get());
      }
      if (state.isPresent()) {
        heardNanos = System.nanoTime();
      } else if (System.nanoTime() - heardNanos > SILENCE_MILLIS * 1_000_000) {
        throw new IllegalStateException("the runner does not say any more how the job stands");
      }
      if (stop.getAsBoolean()) {
        if (stoppedNanos == 0) {
          stoppedNanos = System.nanoTime();
          directory.put(Follower.STOP, new byte[0]);
        } else if (System.nanoTime() - stoppedNanos > STOP_MILLIS * 1_000_000) {
          events.accept(FollowEvent.of(Kind.OVER, "", "asked to stop, and ended at once"));
          return;
        }
      }
      pause();
    }
  }

  /**
   * How the job stands; empty if the runner cannot say that now, such as Flink's while it fails
   * over.
   */
  private static Optional<PipelineResult.State> state(PipelineResult result) {
    try {
      return Optional.of(result.getState());
    } catch (UnsupportedOperationException e) {
      throw e;
    } catch (RuntimeException e) {
      return Optional.empty();
    }
  }

  private static void pause() {
    try {
      Thread.sleep(HEAR_MILLIS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException("interrupted while it followed a run", e);
    }
  }

  private static void end(PipelineResult result) throws IOException {
    long begin = System.nanoTime();
    while (state(result).filter(state -> !state.isTerminal()).isPresent()) {
      if (System.nanoTime() - begin > ENDING_MILLIS * 1_000_000) {
        result.cancel();
        return;
      }
      pause();
    }
  }
}
