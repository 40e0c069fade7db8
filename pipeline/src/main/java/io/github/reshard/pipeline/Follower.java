package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.follow.Look;
import io.github.reshard.checkpoint.follow.SavedTag;
import io.github.reshard.checkpoint.follow.SavedTags;
import io.github.reshard.checkpoint.follow.Watch;
import io.github.reshard.checkpoint.follow.Wholeness;
import io.github.reshard.checkpoint.storage.JobDirectory;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.pipeline.FollowEvent.Kind;
import io.github.reshard.pipeline.Following.InHand;
import io.github.reshard.pipeline.Following.Target;
import io.github.reshard.pipeline.storage.Stores;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.LongSupplier;
import java.util.stream.Collectors;

/**
 * Decides, step by step, what a job that follows a run does next: looks at what is saved, begins
 * what is whole, learns how that ended. All that it has to remember is a {@link Following}.
 */
final class Follower {
  /** The file in the job's directory that asks it to end. */
  static final String STOP = "stop";

  private static final long SETTLING_MILLIS = 200;
  private static final long RENEW_MILLIS = 5_000;

  /** For so long a reshard that is under way may go on when the job is asked to end. */
  private static final long FINISH_MILLIS = 4_000;

  private final CommandOptions options;
  private final String run;
  private final JobDirectory directory;
  private final FollowedReshards reshards;
  private final FollowedTargets targets;
  private final FollowNews news;
  private final RefusedFiles refusedFiles;
  private final FollowQueue queue;
  private final SavedTags saved;
  private final Wholeness wholeness;
  private final LongSupplier clock;
  private final long busyMillis;
  private final long idleMillis;

  private Map<SavedTag, Look> looks = new HashMap<>();
  private long lookedMillis = Following.NEVER;
  private long nextLookMillis;
  private long renewedMillis = Following.NEVER;
  private FollowStep step;

  /**
   * @param run what the job is called
   * @param clock milliseconds since 1970; may jump
   */
  Follower(CommandOptions options, String run, FollowedReshards reshards, LongSupplier clock) {
    String input = Stores.directory(options.getInput());
    SourceStore store = Stores.source(options.getInput(), options);
    this.options = options;
    this.run = run;
    this.directory = Stores.jobDirectory(options.getOutput(), options);
    this.reshards = reshards;
    this.targets = new FollowedTargets(options, store, reshards, run);
    this.news = new FollowNews(directory);
    this.refusedFiles = new RefusedFiles(Stores.directory(options.getOutput()), options);
    this.saved = new SavedTags(store, input);
    this.queue = new FollowQueue(options, saved, targets, reshards, refusedFiles);
    this.wholeness = new Wholeness(store);
    this.clock = clock;
    boolean local = Stores.isLocal(options.getOutput()) && Stores.isLocal(options.getInput());
    this.busyMillis = local ? 50 : 500;
    this.idleMillis = local ? 250 : 1_000;
  }

  /**
   * Takes a step.
   *
   * @throws OutputException if the output cannot be written, not even what happened
   */
  FollowStep step(Following before) throws IOException {
    step = new FollowStep(before, news);
    long now = clock.getAsLong();
    boolean settling = false;
    boolean first = renewedMillis == Following.NEVER;
    if (holds(now)) {
      if (first) {
        reshards.abandonStrays(run, keys(step.state().inHand()));
      }
    } else {
      fail("another job follows into it now. This one gave no sign of life, and has ended.");
    }
    boolean stop = !step.state().over() && directory.get(STOP).isPresent();
    if (!step.state().over() && step.state().inHand() != null) {
      settle(now, stop);
    }
    if (!step.state().over() && !stop) {
      if (now >= nextLookMillis || now < lookedMillis) {
        settling = look(now);
        nextLookMillis = now + (settling ? Math.min(SETTLING_MILLIS, poll()) : poll());
      }
      if (step.state().inHand() == null) {
        queue.take(step, looks, now);
      }
    }
    if (!step.state().over() && step.state().inHand() == null && (stop || isQuiet(now))) {
      step.say(FollowEvent.of(Kind.OVER, "", stop ? "asked to stop" : ""));
      step.become(step.state().ended());
    }
    step.become(news.put(step.state()));
    step.pause(
        step.state().inHand() != null
            ? busyMillis
            : Math.max(1, Math.min(idleMillis, nextLookMillis - clock.getAsLong())));
    return step;
  }

  private static Set<String> keys(InHand hand) {
    return hand == null
        ? Set.of()
        : hand.targets().stream().map(Target::key).collect(Collectors.toSet());
  }

  private long poll() {
    return options.getPoll();
  }

  private void fail(String message) {
    step.say(
        FollowEvent.of(Kind.FAILED, "", Stores.directory(options.getOutput()) + ": " + message));
    step.become(step.state().ended());
  }

  private boolean holds(long now) {
    if (renewedMillis != Following.NEVER && Math.abs(now - renewedMillis) < RENEW_MILLIS) {
      return true;
    }
    renewedMillis = now;
    try {
      return directory.renew(run);
    } catch (IOException | RuntimeException e) {
      // A file system that does not answer now may do so in a while.
      return true;
    }
  }

  private boolean isQuiet(long now) {
    return options.getUntil() != null
        && step.state().waiting().isEmpty()
        && step.state().quietSinceMillis() != Following.NEVER
        && now - step.state().quietSinceMillis() >= options.getUntil();
  }

  /** Looks at what is saved; whether looking again soon is worth it. */
  private boolean look(long now) throws IOException {
    List<String> unlisted = new ArrayList<>();
    Watch.Step seen;
    try {
      List<Look> found = saved.look(refused -> unlisted.add(refused.getMessage()));
      looks = new HashMap<>();
      found.forEach(look -> looks.put(look.saved(), look));
      lookedMillis = now;
      if (step.state().quietSinceMillis() == Following.NEVER) {
        recognise(found, now);
      }
      seen =
          new Watch(options.getGiveUpAfter()).step(step.state().watched(), found, wholeness, now);
    } catch (IOException | UncheckedIOException | RefusedException e) {
      troubled(e instanceof RefusedException ? e.getMessage() : "cannot be looked at: " + e);
      return false;
    }
    troubled(String.join("; ", unlisted));
    boolean quiet =
        step.state().quietSinceMillis() != Following.NEVER
            && step.state().quietSinceMillis() <= now
            && seen.news().isEmpty()
            && seen.watched().looksLike(step.state().watched());
    step.become(step.state().with(seen.watched()));
    if (!quiet) {
      step.become(step.state().quietSince(now));
    }
    List<Watch.News> inOrder = new ArrayList<>(seen.news());
    inOrder.sort(
        Comparator.<Watch.News>comparingLong(one -> one.look().newestMillis())
            .thenComparing(one -> one.look().saved()));
    for (Watch.News one : inOrder) {
      hear(one);
    }
    return seen.settling();
  }

  /** Says once what is in the way. */
  private void troubled(String problem) {
    if (!problem.isEmpty() && !problem.equals(step.state().problem())) {
      step.say(FollowEvent.of(Kind.NOTE, "", problem));
    }
    step.become(step.state().troubledBy(problem));
  }

  /** What stands in the output from an earlier job is not made again. */
  private void recognise(List<Look> found, long now) throws IOException {
    for (Look look : found) {
      Optional<String> refused = refusedFiles.messageOf(look);
      if (refused.isPresent()) {
        step.become(step.state().with(step.state().watched().known(look, now)));
        step.say(FollowEvent.of(Kind.REFUSED, look.saved().toString(), refused.get()));
      } else if (targets.areMade(look)) {
        step.become(
            step.state()
                .with(step.state().watched().known(look, now))
                .made(look.newestMillis())
                .countedFromHere());
        step.say(FollowEvent.of(Kind.KNOWN, look.saved().toString(), ""));
      }
    }
  }

  private void hear(Watch.News one) throws IOException {
    Look look = one.look();
    if (one instanceof Watch.Whole whole) {
      queue.add(step, look, whole.wholeMillis());
    } else if (one instanceof Watch.GivenUp givenUp) {
      step.say(
          FollowEvent.of(
              Kind.GIVEN_UP, look.saved().toString(), String.join("; ", givenUp.missing())));
    } else if (one instanceof Watch.Refused refused) {
      queue.refuse(step, look, refused.message());
    }
  }

  /** Learns whether what is in hand has ended. */
  private void settle(long now, boolean stop) throws IOException {
    InHand hand = step.state().inHand();
    Map<Target, ReshardEnd> ends = new HashMap<>();
    for (Target target : hand.targets()) {
      Optional<ReshardEnd> end =
          target.key().isEmpty()
              ? Optional.of(ReshardEnd.of(ReshardEnd.Kind.REFUSED, target.refusal()))
              : end(hand, target, now);
      end.ifPresent(found -> ends.put(target, found));
    }
    if (ends.size() == hand.targets().size()) {
      FollowEnd end = FollowEnd.of(options, refusedFiles, step.state(), ends, asItIs(hand, ends));
      end.events().forEach(step::say);
      end.latencyMillis().ifPresent(step::published);
      step.become(end.next().quietSince(now));
      reshards.forgetEnds();
    } else if (stop && hand.stopMillis() == Following.NEVER) {
      step.become(step.state().with(hand.stopping(now)));
    } else if (stop && Math.abs(now - hand.stopMillis()) >= FINISH_MILLIS) {
      for (Target target : hand.targets()) {
        if (!target.key().isEmpty() && !ends.containsKey(target)) {
          reshards.abandon(target.key());
        }
      }
      step.say(
          FollowEvent.of(
              Kind.GONE,
              hand.of().saved().toString(),
              "was under way and is abandoned, because the job was asked to stop"));
      step.become(step.state().with((InHand) null));
    }
  }

  /** The checkpoint, if it is as it was; of one that is refused, at this very moment. */
  private Optional<Look> asItIs(InHand hand, Map<Target, ReshardEnd> ends) {
    boolean refused = ends.values().stream().anyMatch(end -> end.kind() == ReshardEnd.Kind.REFUSED);
    return Optional.ofNullable(looks.get(hand.of().saved()))
        .filter(look -> look.fingerprint() == hand.of().fingerprint())
        .filter(look -> !refused || queue.isAsItWas(look));
  }

  /** How a reshard ended; a worker may have died between the last thing it did and saying so. */
  private Optional<ReshardEnd> end(InHand hand, Target target, long now) throws IOException {
    Optional<ReshardEnd> end = reshards.end(target.key());
    if (end.isPresent() || now - renewedMillis >= busyMillis) {
      return end;
    }
    end = targets.published(hand.of().saved(), target);
    if (end.isPresent()) {
      reshards.end(target.key(), end.get());
    }
    return end;
  }
}
