package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.follow.Look;
import io.github.reshard.checkpoint.follow.SavedTag;
import io.github.reshard.checkpoint.follow.SavedTags;
import io.github.reshard.checkpoint.follow.Watch;
import io.github.reshard.checkpoint.follow.Wholeness;
import io.github.reshard.checkpoint.storage.JobDirectory;
import io.github.reshard.checkpoint.storage.OutputHeldException;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.pipeline.FollowEvent.Kind;
import io.github.reshard.pipeline.Following.InHand;
import io.github.reshard.pipeline.Following.Target;
import io.github.reshard.pipeline.Following.Waiting;
import io.github.reshard.pipeline.storage.Stores;
import io.github.reshard.transforms.Keyed;
import io.github.reshard.transforms.PlanItem;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.LongSupplier;

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
  private final SavedTags saved;
  private final Wholeness wholeness;
  private final LongSupplier clock;
  private final long busyMillis;
  private final long idleMillis;

  private Map<SavedTag, Look> looks = new HashMap<>();
  private long lookedMillis = Following.NEVER;
  private long nextLookMillis;
  private long renewedMillis = Following.NEVER;
  private Following state = Following.START;
  private Step step = new Step();

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
    this.wholeness = new Wholeness(store);
    this.clock = clock;
    boolean local = Stores.isLocal(options.getOutput()) && Stores.isLocal(options.getInput());
    this.busyMillis = local ? 50 : 500;
    this.idleMillis = local ? 250 : 1_000;
  }

  /** What a step led to. */
  static final class Step {
    private final List<Keyed<PlanItem>> items = new ArrayList<>();
    private final List<Long> latenciesMillis = new ArrayList<>();
    private Following next = Following.START;
    private long pauseMillis;

    /** What to remember. */
    Following next() {
      return next;
    }

    /** What to reshard. */
    List<Keyed<PlanItem>> items() {
      return items;
    }

    /** From whole to published, of what was published since the last step. */
    List<Long> latenciesMillis() {
      return latenciesMillis;
    }

    /** When to go on. */
    long pauseMillis() {
      return pauseMillis;
    }
  }

  /**
   * Takes a step.
   *
   * @throws OutputException if the output cannot be written, not even what happened
   */
  Step step(Following before) throws IOException {
    state = before;
    step = new Step();
    long now = clock.getAsLong();
    boolean settling = false;
    if (!holds(now)) {
      fail("another job follows into it now. This one gave no sign of life, and has ended.");
    }
    boolean stop = !state.over() && directory.get(STOP).isPresent();
    if (!state.over() && state.inHand() != null) {
      settle(now, stop);
    }
    if (!state.over() && !stop) {
      if (now >= nextLookMillis || now < lookedMillis) {
        settling = look(now);
        nextLookMillis = now + (settling ? Math.min(SETTLING_MILLIS, poll()) : poll());
      }
      if (state.inHand() == null) {
        take(now);
      }
    }
    if (!state.over() && state.inHand() == null && (stop || isQuiet(now))) {
      say(FollowEvent.of(Kind.OVER, "", stop ? "asked to stop" : ""));
      state = state.ended();
    }
    state = news.put(state);
    step.next = state;
    step.pauseMillis =
        state.inHand() != null
            ? busyMillis
            : Math.max(1, Math.min(idleMillis, nextLookMillis - clock.getAsLong()));
    return step;
  }

  private long poll() {
    return options.getPoll();
  }

  private void say(FollowEvent event) {
    news.say(event);
  }

  private void fail(String message) {
    say(FollowEvent.of(Kind.FAILED, "", Stores.directory(options.getOutput()) + ": " + message));
    state = state.ended();
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
        && state.waiting().isEmpty()
        && state.quietSinceMillis() != Following.NEVER
        && now - state.quietSinceMillis() >= options.getUntil();
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
      if (state.quietSinceMillis() == Following.NEVER) {
        recognise(found, now);
      }
      seen = new Watch(options.getGiveUpAfter()).step(state.watched(), found, wholeness, now);
    } catch (IOException | UncheckedIOException | RefusedException e) {
      troubled(e instanceof RefusedException ? e.getMessage() : "cannot be looked at: " + e);
      return false;
    }
    troubled(String.join("; ", unlisted));
    boolean quiet =
        state.quietSinceMillis() != Following.NEVER
            && state.quietSinceMillis() <= now
            && seen.news().isEmpty()
            && seen.watched().looksLike(state.watched());
    state = state.with(seen.watched());
    if (!quiet) {
      state = state.quietSince(now);
    }
    for (Watch.News one : seen.news()) {
      hear(one);
    }
    return seen.settling();
  }

  /** Says once what is in the way. */
  private void troubled(String problem) {
    if (!problem.isEmpty() && !problem.equals(state.problem())) {
      say(FollowEvent.of(Kind.NOTE, "", problem));
    }
    state = state.troubledBy(problem);
  }

  /** What stands in the output from an earlier job is not made again. */
  private void recognise(List<Look> found, long now) throws IOException {
    for (Look look : found) {
      Optional<String> refused = refusedFiles.messageOf(look);
      if (refused.isPresent()) {
        state = state.with(state.watched().known(look, now));
        say(FollowEvent.of(Kind.REFUSED, look.saved().toString(), refused.get()));
      } else if (targets.areMade(look)) {
        state = state.with(state.watched().known(look, now)).made(look.newestMillis());
        say(FollowEvent.of(Kind.KNOWN, look.saved().toString(), ""));
      }
    }
  }

  private void hear(Watch.News one) throws IOException {
    Look look = one.look();
    String name = look.saved().toString();
    if (one instanceof Watch.Whole whole) {
      state = state.oneMoreWhole();
      Optional<String> skip = skip(look);
      if (skip.isPresent()) {
        say(FollowEvent.of(Kind.SKIPPED, name, skip.get()));
        return;
      }
      List<Waiting> waiting = new ArrayList<>(state.waiting());
      waiting.removeIf(other -> other.saved().equals(look.saved()));
      waiting.add(Waiting.of(look, whole.wholeMillis()));
      waiting.sort(Comparator.comparingLong(Waiting::newestMillis).thenComparing(Waiting::saved));
      state = state.with(waiting);
    } else if (one instanceof Watch.GivenUp givenUp) {
      say(FollowEvent.of(Kind.GIVEN_UP, name, String.join("; ", givenUp.missing())));
    } else if (one instanceof Watch.Refused refused) {
      refuse(look, refused.message());
    }
  }

  private Optional<String> skip(Look look) {
    boolean all = options.getEvery() == 1 && options.getKeep() == null && !options.getNewestOnly();
    if (!all && look.newestMillis() < state.newestMillis()) {
      return Optional.of("older than what stands in the output");
    }
    return (state.whole() - 1) % options.getEvery() == 0
        ? Optional.empty()
        : Optional.of("--every=" + options.getEvery());
  }

  private void refuse(Look look, String message) throws IOException {
    say(FollowEvent.of(Kind.REFUSED, look.saved().toString(), message));
    refusedFiles.put(look, message);
  }

  /** Begins the next one that waits, if there is one. */
  private void take(long now) throws IOException {
    List<Waiting> waiting = new ArrayList<>();
    for (Waiting one : state.waiting()) {
      Look look = looks.get(one.saved());
      if (look == null) {
        say(FollowEvent.of(Kind.GONE, one.saved().toString(), "was removed before its turn"));
      } else if (look.fingerprint() == one.fingerprint()) {
        waiting.add(one);
      } // else it is another one, which is found whole by itself
    }
    int most = options.getNewestOnly() ? 1 : Integer.MAX_VALUE;
    if (options.getKeep() != null) {
      most = Math.min(most, options.getKeep());
    }
    while (waiting.size() > most) {
      Waiting old = waiting.remove(0);
      String newest = waiting.get(waiting.size() - 1).saved().toString();
      say(
          FollowEvent.of(
              Kind.SKIPPED,
              old.saved().toString(),
              newest
                  + " is newer, as "
                  + (options.getNewestOnly() ? "--newestOnly" : "--keep=" + options.getKeep())
                  + " asks"));
    }
    state = state.with(waiting);
    if (waiting.isEmpty() || waiting.get(0).notBeforeMillis() > now) {
      return;
    }
    Waiting one = waiting.remove(0);
    state = state.with(waiting);
    begin(one, looks.get(one.saved()), now);
  }

  private void begin(Waiting one, Look look, long now) throws IOException {
    String name = one.saved().toString();
    boolean leads = one.newestMillis() >= state.newestMillis();
    FollowedTargets.Begun begun;
    String refusal = "";
    for (int tries = 1; ; tries++) {
      try {
        begun = targets.begin(look, state.number(), leads, state.leftOut());
        break;
      } catch (RefusedException | IOException e) {
        // What is said twice is no matter of the moment.
        String message = e instanceof RefusedException ? e.getMessage() : "cannot be read: " + e;
        if (!isAsItWas(look)) {
          gone(look, "changed or went while it was read");
          return;
        }
        if (message.equals(refusal)) {
          refuse(look, message);
          return;
        }
        if (tries == FollowedReshards.TRIES) {
          gone(look, "changes while it is read: " + message);
          return;
        }
        refusal = message;
      } catch (OutputException e) {
        retry(one, e, now);
        return;
      }
    }
    if (begun.targets().isEmpty()) {
      say(FollowEvent.of(Kind.KNOWN, name, ""));
      state = state.made(one.newestMillis());
      return;
    }
    List<Target> under = begun.targets();
    int files = look.all().size();
    say(
        new FollowEvent(
            Kind.BEGUN,
            name,
            "",
            under.stream().map(Target::ranks).toList(),
            under.stream().map(Target::directory).toList(),
            files,
            look.bytes(),
            one.wholeMillis(),
            now,
            0,
            state.waiting().size()));
    step.items.addAll(begun.items());
    state = state.with(new InHand(one, now, files, look.bytes(), under, Following.NEVER)).next();
  }

  private boolean isAsItWas(Look look) {
    try {
      return saved.look(refused -> {}).stream()
          .anyMatch(
              now -> now.saved().equals(look.saved()) && now.fingerprint() == look.fingerprint());
    } catch (IOException | RuntimeException e) {
      return false;
    }
  }

  private void gone(Look look, String message) {
    say(FollowEvent.of(Kind.GONE, look.saved().toString(), message));
    state = state.with(state.watched().forget(look.saved()));
  }

  private void retry(Waiting one, OutputException failure, long now) {
    boolean held = failure instanceof OutputHeldException;
    if (!held && one.tries() + 1 >= FollowedReshards.TRIES) {
      say(FollowEvent.of(Kind.FAILED, one.saved().toString(), failure.getMessage()));
      state = state.ended();
      return;
    }
    if (held && one.tries() == 0) {
      say(FollowEvent.of(Kind.NOTE, one.saved().toString(), failure.getMessage()));
    }
    int tries = held ? Math.max(1, one.tries()) : one.tries() + 1;
    long pause = held ? poll() : reshards.pauseMillis(tries);
    List<Waiting> waiting = new ArrayList<>(state.waiting());
    waiting.add(0, one.later(tries, now + pause));
    state = state.with(waiting);
  }

  /** Learns whether what is in hand has ended. */
  private void settle(long now, boolean stop) throws IOException {
    InHand hand = state.inHand();
    Map<Target, ReshardEnd> ends = new HashMap<>();
    for (Target target : hand.targets()) {
      Optional<ReshardEnd> end =
          target.key().isEmpty()
              ? Optional.of(ReshardEnd.of(ReshardEnd.Kind.REFUSED, target.refusal()))
              : end(hand, target, now);
      end.ifPresent(found -> ends.put(target, found));
    }
    if (ends.size() == hand.targets().size()) {
      FollowEnd end = FollowEnd.of(options, refusedFiles, state, ends, asItWas(hand));
      end.events().forEach(this::say);
      end.latencyMillis().ifPresent(step.latenciesMillis::add);
      state = end.next().quietSince(now);
      reshards.forgetEnds();
    } else if (stop && hand.stopMillis() == Following.NEVER) {
      state = state.with(hand.stopping(now));
    } else if (stop && Math.abs(now - hand.stopMillis()) >= FINISH_MILLIS) {
      for (Target target : hand.targets()) {
        if (!target.key().isEmpty() && !ends.containsKey(target)) {
          reshards.abandon(target.key());
        }
      }
      say(
          FollowEvent.of(
              Kind.GONE,
              hand.of().saved().toString(),
              "was under way and is abandoned, because the job was asked to stop"));
      state = state.with((InHand) null);
    }
  }

  private Optional<Look> asItWas(InHand hand) {
    return Optional.ofNullable(looks.get(hand.of().saved()))
        .filter(look -> look.fingerprint() == hand.of().fingerprint());
  }

  /** How a reshard ended; a worker may have died between the last thing it did and saying so. */
  private Optional<ReshardEnd> end(InHand hand, Target target, long now) throws IOException {
    Optional<ReshardEnd> end = reshards.end(target.key());
    if (end.isEmpty()
        && now - renewedMillis < busyMillis
        && targets.isPublished(hand.of().saved(), target)) {
      reshards.end(target.key(), ReshardEnd.of(ReshardEnd.Kind.PUBLISHED, ""));
      return reshards.end(target.key());
    }
    return end;
  }
}
