package io.github.reshard.checkpoint.follow;

import io.github.reshard.checkpoint.storage.FileStat;
import java.io.Serializable;
import java.util.Arrays;
import java.util.Map;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;

/**
 * What is remembered of a watched directory from one look to the next. It holds something of the
 * checkpoints that are there now and of no others, so it does not grow with the length of a run.
 *
 * @param tags by checkpoint
 */
public record Watched(SortedMap<SavedTag, Seen> tags) implements Serializable {
  /** Before the first look. */
  public static final Watched NOTHING = new Watched(new TreeMap<>());

  public Watched {
    tags = new TreeMap<>(tags);
  }

  /**
   * What is remembered of one checkpoint.
   *
   * @param fingerprint of the last look
   * @param sinceMillis when it was first seen so, in milliseconds since 1970
   * @param wholeMillis when it was first found whole as it is now, or {@link #NEVER}
   * @param told what was last said of it
   * @param toldFingerprint how it was then
   * @param toldVersions of the files of its tag when it was last said to be whole
   */
  @SuppressWarnings("ArrayRecordComponent") // Compared by nobody.
  public record Seen(
      long fingerprint,
      long sinceMillis,
      long wholeMillis,
      Told told,
      long toldFingerprint,
      long[] toldVersions)
      implements Serializable {
    /** The {@code wholeMillis} of what was not whole yet. */
    public static final long NEVER = -1;

    /** Seen for the first time. */
    static Seen first(Look look, long now) {
      return new Seen(look.fingerprint(), now, NEVER, Told.NOTHING, 0, new long[0]);
    }

    /** Seen otherwise than before; what was said stays said. */
    Seen changed(Look look, long now) {
      return new Seen(look.fingerprint(), now, NEVER, told, toldFingerprint, toldVersions);
    }

    /** A clock that jumped back must not make anything wait for it to come again. */
    Seen notAfter(long now) {
      return sinceMillis <= now && wholeMillis <= now
          ? this
          : new Seen(
              fingerprint,
              Math.min(sinceMillis, now),
              Math.min(wholeMillis, now),
              told,
              toldFingerprint,
              toldVersions);
    }

    Seen whole(long now) {
      return new Seen(fingerprint, sinceMillis, now, told, toldFingerprint, toldVersions);
    }

    Seen told(Told what, Look look) {
      long[] versions = what == Told.WHOLE ? look.versions() : toldVersions;
      return new Seen(fingerprint, sinceMillis, wholeMillis, what, fingerprint, versions);
    }

    /** Whether {@code file} is one of the checkpoint that was said to be whole before. */
    boolean isStale(FileStat file) {
      return Arrays.binarySearch(toldVersions, Look.version(file)) >= 0;
    }

    /** Whether nothing was said of it as it is now. */
    boolean isNews() {
      return told == Told.NOTHING || toldFingerprint != fingerprint;
    }

    @Override
    public String toString() {
      return "%016x since %d, whole %d, told %s of %016x with %s"
          .formatted(
              fingerprint,
              sinceMillis,
              wholeMillis,
              told,
              toldFingerprint,
              Arrays.toString(toldVersions));
    }
  }

  /** What was said of a checkpoint. */
  public enum Told {
    /** Nothing so far. */
    NOTHING,
    /** That it is whole, or that it need not be. */
    WHOLE,
    /** That it stays incomplete. */
    GIVEN_UP,
    /** That it is of a kind that cannot be resharded. */
    REFUSED
  }

  /** Whether the last looks of both showed the same. */
  public boolean looksLike(Watched other) {
    return tags.keySet().equals(other.tags.keySet())
        && tags.entrySet().stream()
            .allMatch(
                tag -> tag.getValue().fingerprint() == other.tags.get(tag.getKey()).fingerprint());
  }

  /** What is remembered of {@code saved}. */
  Optional<Seen> of(SavedTag saved) {
    return Optional.ofNullable(tags.get(saved));
  }

  /** The same, and {@code saved} has to be found whole anew, as if it had not been said. */
  public Watched forget(SavedTag saved) {
    Map<SavedTag, Seen> left = new TreeMap<>(tags);
    left.computeIfPresent(
        saved,
        (tag, seen) ->
            // Not as it was, so that two more looks have to be equal.
            new Seen(
                ~seen.fingerprint(), seen.sinceMillis(), Seen.NEVER, Told.NOTHING, 0, new long[0]));
    return new Watched(new TreeMap<>(left));
  }

  /** The same, and {@code look} counts as told: what was made of it is there. */
  public Watched known(Look look, long now) {
    Map<SavedTag, Seen> more = new TreeMap<>(tags);
    more.put(look.saved(), Seen.first(look, now).whole(now).told(Told.WHOLE, look));
    return new Watched(new TreeMap<>(more));
  }
}
