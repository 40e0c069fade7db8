package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.follow.Look;
import io.github.reshard.checkpoint.follow.SavedTag;
import io.github.reshard.checkpoint.follow.SavedTags;
import io.github.reshard.checkpoint.storage.OutputHeldException;
import io.github.reshard.pipeline.FollowEvent.Kind;
import io.github.reshard.pipeline.Following.InHand;
import io.github.reshard.pipeline.Following.Target;
import io.github.reshard.pipeline.Following.Waiting;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * The checkpoints that are whole and wait for their turn: which of them are passed over, and how
 * one is begun.
 *
 * @param options of the job that follows
 * @param saved looks at what is saved
 * @param refusedFiles where refusals are written down
 */
record FollowQueue(
    CommandOptions options,
    SavedTags saved,
    FollowedTargets targets,
    FollowedReshards reshards,
    RefusedFiles refusedFiles) {
  /** Hears that a checkpoint is whole: it waits for its turn, unless it is passed over. */
  void add(FollowStep step, Look look, long wholeMillis) {
    Optional<String> skip = skip(step, look);
    if (skip.isPresent()) {
      step.say(FollowEvent.of(Kind.SKIPPED, look.saved().toString(), skip.get()));
      return;
    }
    List<Waiting> waiting = new ArrayList<>(step.state().waiting());
    waiting.removeIf(other -> other.saved().equals(look.saved()));
    waiting.add(Waiting.of(look, wholeMillis));
    waiting.sort(Comparator.comparingLong(Waiting::newestMillis).thenComparing(Waiting::saved));
    step.become(step.state().with(waiting));
  }

  private Optional<String> skip(FollowStep step, Look look) {
    boolean all = options.getEvery() == 1 && options.getKeep() == null && !options.getNewestOnly();
    if (!all && look.newestMillis() < step.state().newestMillis()) {
      return Optional.of("older than what stands in the output");
    }
    step.become(step.state().oneMoreWhole());
    return (step.state().whole() - 1) % options.getEvery() == 0
        ? Optional.empty()
        : Optional.of("--every=" + options.getEvery());
  }

  /** Says that it is refused, and writes it down. */
  void refuse(FollowStep step, Look look, String message) throws IOException {
    step.say(FollowEvent.of(Kind.REFUSED, look.saved().toString(), message));
    refusedFiles.put(look, message);
  }

  /**
   * Begins the next one that waits, if there is one.
   *
   * @param looks what the last look showed
   */
  void take(FollowStep step, Map<SavedTag, Look> looks, long now) throws IOException {
    List<Waiting> waiting = new ArrayList<>();
    for (Waiting one : step.state().waiting()) {
      Look look = looks.get(one.saved());
      if (look == null) {
        step.say(FollowEvent.of(Kind.GONE, one.saved().toString(), "was removed before its turn"));
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
      step.say(
          FollowEvent.of(
              Kind.SKIPPED,
              old.saved().toString(),
              newest
                  + " is newer, as "
                  + (options.getNewestOnly() ? "--newestOnly" : "--keep=" + options.getKeep())
                  + " asks"));
    }
    step.become(step.state().with(waiting));
    if (waiting.isEmpty() || waiting.get(0).notBeforeMillis() > now) {
      return;
    }
    Waiting one = waiting.remove(0);
    step.become(step.state().with(waiting));
    begin(step, one, looks.get(one.saved()), now);
  }

  private void begin(FollowStep step, Waiting one, Look look, long now) throws IOException {
    String name = one.saved().toString();
    boolean leads = one.newestMillis() >= step.state().newestMillis();
    FollowedTargets.Begun begun;
    String refusal = "";
    for (int tries = 1; ; tries++) {
      try {
        begun = targets.begin(look, step.state().number(), leads, step.state().leftOut());
        break;
      } catch (RefusedException | IOException e) {
        // What is said twice is no matter of the moment.
        String message = e instanceof RefusedException ? e.getMessage() : "cannot be read: " + e;
        if (!isAsItWas(look)) {
          gone(step, look, "changed or went while it was read");
          return;
        }
        if (message.equals(refusal)) {
          refuse(step, look, message);
          return;
        }
        if (tries == FollowedReshards.TRIES) {
          gone(step, look, "changes while it is read: " + message);
          return;
        }
        refusal = message;
      } catch (OutputException e) {
        retry(step, one, e, now);
        return;
      }
    }
    if (begun.targets().isEmpty()) {
      step.say(FollowEvent.of(Kind.KNOWN, name, ""));
      step.become(step.state().made(one.newestMillis()));
      return;
    }
    List<Target> under = begun.targets();
    int files = look.all().size();
    step.say(
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
            step.state().waiting().size()));
    step.add(begun.items());
    step.become(
        step.state()
            .with(new InHand(one, now, files, look.bytes(), under, Following.NEVER))
            .next());
  }

  /** Whether it is so at this moment. */
  boolean isAsItWas(Look look) {
    try {
      return saved.look(refused -> {}).stream()
          .anyMatch(
              now -> now.saved().equals(look.saved()) && now.fingerprint() == look.fingerprint());
    } catch (IOException | RuntimeException e) {
      return false;
    }
  }

  private static void gone(FollowStep step, Look look, String message) {
    step.say(FollowEvent.of(Kind.GONE, look.saved().toString(), message));
    step.become(step.state().with(step.state().watched().forget(look.saved())));
  }

  private void retry(FollowStep step, Waiting one, OutputException failure, long now) {
    boolean held = failure instanceof OutputHeldException;
    if (!held && one.tries() + 1 >= FollowedReshards.TRIES) {
      step.say(FollowEvent.of(Kind.FAILED, one.saved().toString(), failure.getMessage()));
      step.become(step.state().ended());
      return;
    }
    if (held && one.tries() == 0) {
      step.say(FollowEvent.of(Kind.NOTE, one.saved().toString(), failure.getMessage()));
    }
    int tries = held ? Math.max(1, one.tries()) : one.tries() + 1;
    long pause = held ? options.getPoll() : reshards.pauseMillis(tries);
    List<Waiting> waiting = new ArrayList<>(step.state().waiting());
    waiting.add(0, one.later(tries, now + pause));
    step.become(step.state().with(waiting));
  }
}
