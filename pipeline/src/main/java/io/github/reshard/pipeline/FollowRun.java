package io.github.reshard.pipeline;

import io.github.reshard.transforms.Counters;
import io.github.reshard.transforms.Keyed;
import io.github.reshard.transforms.PlanItem;
import java.io.IOException;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.coders.SerializableCoder;
import org.apache.beam.sdk.metrics.Distribution;
import org.apache.beam.sdk.metrics.Metrics;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.splittabledofn.RestrictionTracker;
import org.apache.beam.sdk.transforms.splittabledofn.SplitResult;
import org.joda.time.Duration;

/**
 * Where a graph begins that follows a run: for each checkpoint that becomes whole, everything that
 * its plans list. It takes one step of a {@link Follower} at a time and leaves what that remembers
 * with the runner. Unbounded: no watermark moves before it ends.
 */
@DoFn.UnboundedPerElement
final class FollowRun extends DoFn<String, Keyed<PlanItem>> {
  private static final long serialVersionUID = 1L;

  private final FollowedReshards reshards;
  private final Distribution latency =
      Metrics.distribution(Counters.NAMESPACE, Counters.WHOLE_TO_PUBLISHED);
  private final Distribution lag = Metrics.distribution(Counters.NAMESPACE, Counters.LAG);
  private transient Follower follower;

  FollowRun(FollowedReshards reshards) {
    this.reshards = reshards;
  }

  @GetInitialRestriction
  public Following initial() {
    return Following.START;
  }

  @GetRestrictionCoder
  public Coder<Following> restrictionCoder() {
    return SerializableCoder.of(Following.class);
  }

  @NewTracker
  public RestrictionTracker<Following, Following> tracker(@Restriction Following following) {
    return new Tracker(following);
  }

  /** What is done in a step may be done again: a runner that forgets the step takes it again. */
  @ProcessElement
  public ProcessContinuation process(
      @Element String run,
      PipelineOptions options,
      RestrictionTracker<Following, Following> tracker,
      OutputReceiver<Keyed<PlanItem>> out)
      throws IOException {
    Following before = tracker.currentRestriction();
    if (before.over()) {
      return ProcessContinuation.stop();
    }
    if (follower == null) {
      follower =
          new Follower(options.as(CommandOptions.class), run, reshards, System::currentTimeMillis);
    }
    FollowStep step = follower.step(before);
    if (!tracker.tryClaim(step.state())) {
      return ProcessContinuation.stop();
    }
    step.items().forEach(out::output);
    for (long millis : step.latenciesMillis()) {
      latency.update(millis);
      lag.update(step.state().waiting().size());
    }
    return step.state().over()
        ? ProcessContinuation.stop()
        : ProcessContinuation.resume().withResumeDelay(Duration.millis(step.pauseMillis()));
  }

  /** Each claim is one step; the rest is what follows on the last one. */
  private static final class Tracker extends RestrictionTracker<Following, Following> {
    private Following restriction;
    private boolean stopped;

    Tracker(Following restriction) {
      this.restriction = restriction;
    }

    @Override
    public boolean tryClaim(Following next) {
      if (stopped) {
        return false;
      }
      restriction = next;
      return true;
    }

    @Override
    public Following currentRestriction() {
      return restriction;
    }

    @Override
    public SplitResult<Following> trySplit(double fraction) {
      if (fraction > 0 || stopped || restriction.over()) {
        return null;
      }
      Following rest = restriction;
      stopped = true;
      restriction = restriction.ended();
      return SplitResult.of(restriction, rest);
    }

    @Override
    public void checkDone() {
      if (!restriction.over()) {
        throw new IllegalStateException("a step was left out");
      }
    }

    @Override
    public IsBounded isBounded() {
      return IsBounded.UNBOUNDED;
    }
  }
}
