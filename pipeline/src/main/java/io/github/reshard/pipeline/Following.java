package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.follow.Look;
import io.github.reshard.checkpoint.follow.SavedTag;
import io.github.reshard.checkpoint.follow.Watched;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.List;
import java.util.SortedSet;
import java.util.TreeSet;

/**
 * How far a job that follows a run has come. It is the restriction of the splittable {@link
 * FollowRun}, so that a runner keeps it, and goes on from it after a failure. It holds something of
 * the checkpoints that are there now and of no others, so it does not grow with the length of a
 * run.
 *
 * @param watched what the last look showed
 * @param waiting what is whole and not yet begun, in the order in which it was written
 * @param inHand what is being resharded, or null; there is one at a time
 * @param number of the next thing that is said or begun
 * @param whole how many checkpoints were found whole, of those that are not older than what stands
 *     in the output, for {@code --every}
 * @param quietSinceMillis since when nothing has happened, in milliseconds since 1970; {@link
 *     #NEVER} before the first look
 * @param newestMillis when the newest file of the newest checkpoint in the output was written
 * @param leftOut paths of files beside the tags that change while they are read
 * @param problem the last one that kept the directory from being looked at; empty if there is none
 * @param over whether it has ended
 */
record Following(
    Watched watched,
    List<Waiting> waiting,
    InHand inHand,
    int number,
    long whole,
    long quietSinceMillis,
    long newestMillis,
    SortedSet<String> leftOut,
    String problem,
    boolean over)
    implements Serializable {
  /** Before anything. */
  static final long NEVER = -1;

  /** Before the first look. */
  static final Following START =
      new Following(
          Watched.NOTHING, List.of(), null, 0, 0, NEVER, NEVER, new TreeSet<>(), "", false);

  Following {
    waiting = new ArrayList<>(waiting);
    leftOut = new TreeSet<>(leftOut);
  }

  /**
   * A checkpoint that is whole.
   *
   * @param fingerprint how it was then
   * @param newestMillis when its newest file was written, by the clock of the store
   * @param wholeMillis when it was first seen whole
   * @param tries how often it could not be begun because the output failed
   * @param notBeforeMillis when to try again
   */
  record Waiting(
      SavedTag saved,
      long fingerprint,
      long newestMillis,
      long wholeMillis,
      int tries,
      long notBeforeMillis)
      implements Serializable {
    static Waiting of(Look look, long wholeMillis) {
      return new Waiting(
          look.saved(), look.fingerprint(), look.newestMillis(), wholeMillis, 0, NEVER);
    }

    Waiting later(int newTries, long millis) {
      return new Waiting(saved, fingerprint, newestMillis, wholeMillis, newTries, millis);
    }
  }

  /**
   * A checkpoint that is being resharded.
   *
   * @param beganMillis when that began
   * @param files of it
   * @param bytes of these
   * @param targets where to
   * @param stopMillis when it was asked to end, or {@link #NEVER}
   */
  record InHand(
      Waiting of, long beganMillis, int files, long bytes, List<Target> targets, long stopMillis)
      implements Serializable {
    InHand {
      targets = new ArrayList<>(targets);
    }

    InHand stopping(long millis) {
      return new InHand(of, beganMillis, files, bytes, targets, millis);
    }
  }

  /**
   * One of the sizes that a checkpoint is resharded to.
   *
   * @param ranks data-parallel ranks, or {@link
   *     io.github.reshard.checkpoint.plan.ReshardPlan#ANY_WORLD_SIZE}
   * @param directory what {@code save_checkpoint} would have been given
   * @param key of the reshard; empty if it is refused
   * @param refusal why
   */
  record Target(int ranks, String directory, String key, String refusal) implements Serializable {}

  Following with(Watched newWatched) {
    return new Following(
        newWatched,
        waiting,
        inHand,
        number,
        whole,
        quietSinceMillis,
        newestMillis,
        leftOut,
        problem,
        over);
  }

  Following with(List<Waiting> newWaiting) {
    return new Following(
        watched,
        newWaiting,
        inHand,
        number,
        whole,
        quietSinceMillis,
        newestMillis,
        leftOut,
        problem,
        over);
  }

  /** The same, with that in hand, or nothing if it is null. */
  Following with(InHand newInHand) {
    return new Following(
        watched,
        waiting,
        newInHand,
        number,
        whole,
        quietSinceMillis,
        newestMillis,
        leftOut,
        problem,
        over);
  }

  /** The same, and another number for what comes next. */
  Following next() {
    return new Following(
        watched,
        waiting,
        inHand,
        number + 1,
        whole,
        quietSinceMillis,
        newestMillis,
        leftOut,
        problem,
        over);
  }

  Following oneMoreWhole() {
    return counted(whole + 1);
  }

  /** The same, as if the checkpoint that stands in the output were the first that was found. */
  Following countedFromHere() {
    return counted(1);
  }

  private Following counted(long newWhole) {
    return new Following(
        watched,
        waiting,
        inHand,
        number,
        newWhole,
        quietSinceMillis,
        newestMillis,
        leftOut,
        problem,
        over);
  }

  Following quietSince(long millis) {
    return new Following(
        watched, waiting, inHand, number, whole, millis, newestMillis, leftOut, problem, over);
  }

  /** The same, and something of that age stands in the output. */
  Following made(long millis) {
    return new Following(
        watched,
        waiting,
        inHand,
        number,
        whole,
        quietSinceMillis,
        Math.max(newestMillis, millis),
        leftOut,
        problem,
        over);
  }

  Following without(List<String> paths) {
    SortedSet<String> more = new TreeSet<>(leftOut);
    more.addAll(paths);
    return new Following(
        watched,
        waiting,
        inHand,
        number,
        whole,
        quietSinceMillis,
        newestMillis,
        more,
        problem,
        over);
  }

  Following troubledBy(String newProblem) {
    return new Following(
        watched,
        waiting,
        inHand,
        number,
        whole,
        quietSinceMillis,
        newestMillis,
        leftOut,
        newProblem,
        over);
  }

  Following ended() {
    return new Following(
        watched,
        waiting,
        null,
        number,
        whole,
        quietSinceMillis,
        newestMillis,
        leftOut,
        problem,
        true);
  }
}
