package io.github.reshard.checkpoint.follow;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.follow.Watched.Seen;
import io.github.reshard.checkpoint.follow.Watched.Told;
import io.github.reshard.checkpoint.storage.FileStat;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.TreeMap;
import java.util.function.Predicate;

/**
 * Tells from one look to the next which checkpoints have become whole. A checkpoint is whole when
 * all of it is there and nothing of it changed between two looks; one whose tag is written again is
 * another checkpoint, and whole when no file of the earlier one is left.
 *
 * @param giveUpMillis for how long a checkpoint that does not change may stay incomplete, in
 *     milliseconds
 */
public record Watch(long giveUpMillis) {
  /** Says what a look at a checkpoint lacks. */
  public interface Judge {
    /**
     * A sentence for each thing that is missing; none if it is whole.
     *
     * @param stale which files are of an earlier checkpoint of this name
     * @throws RefusedException if it is of a kind that is not supported
     */
    List<String> missing(Look look, Predicate<FileStat> stale) throws IOException;
  }

  /** Something to say of a checkpoint, once for each state that it is in. */
  public sealed interface News {
    /** The checkpoint. */
    Look look();
  }

  /**
   * It is whole.
   *
   * @param wholeMillis when that was first seen, in milliseconds since 1970
   */
  public record Whole(Look look, long wholeMillis) implements News {}

  /**
   * It stays incomplete.
   *
   * @param missing what it lacks, a sentence each
   */
  public record GivenUp(Look look, List<String> missing) implements News {}

  /**
   * It cannot be resharded.
   *
   * @param message why
   */
  public record Refused(Look look, String message) implements News {}

  /**
   * What a look led to.
   *
   * @param watched what to remember
   * @param news what to say: what became whole in the order in which it was written
   * @param settling whether something is all there and only its second look is wanted, so that
   *     looking again soon is worth it
   */
  public record Step(Watched watched, List<News> news, boolean settling) {}

  /**
   * Takes in a look.
   *
   * @param now milliseconds since 1970; may be less than the last time
   */
  public Step step(Watched before, List<Look> looks, Judge judge, long now) throws IOException {
    TreeMap<SavedTag, Seen> after = new TreeMap<>();
    List<News> news = new ArrayList<>();
    boolean settling = false;
    for (Look look : looks) {
      Seen last = before.of(look.saved()).map(seen -> seen.notAfter(now)).orElse(null);
      boolean same = last != null && last.fingerprint() == look.fingerprint();
      Seen seen = last == null ? Seen.first(look, now) : same ? last : last.changed(look, now);
      if (seen.isNews()) {
        Judged judged = judge(look, seen, judge);
        if (judged.refused() != null) {
          settling |= !same;
          if (same) {
            seen = seen.told(Told.REFUSED, look);
            news.add(new Refused(look, judged.refused()));
          }
        } else if (judged.missing().isEmpty()) {
          seen = seen.wholeMillis() == Seen.NEVER ? seen.whole(now) : seen;
          settling |= !same;
          if (same) {
            news.add(new Whole(look, seen.wholeMillis()));
            seen = seen.told(Told.WHOLE, look);
          }
        } else if (same && now - seen.sinceMillis() > giveUpMillis) {
          seen = seen.told(Told.GIVEN_UP, look);
          news.add(new GivenUp(look, judged.missing()));
        }
      }
      after.put(look.saved(), seen);
    }
    news.sort(
        Comparator.<News>comparingLong(one -> one.look().newestMillis())
            .thenComparing(one -> one.look().saved()));
    return new Step(new Watched(after), List.copyOf(news), settling);
  }

  private record Judged(List<String> missing, String refused) {}

  private static Judged judge(Look look, Seen seen, Judge judge) throws IOException {
    try {
      return new Judged(judge.missing(look, seen::isStale), null);
    } catch (RefusedException e) {
      return new Judged(List.of(), e.getMessage());
    }
  }
}
