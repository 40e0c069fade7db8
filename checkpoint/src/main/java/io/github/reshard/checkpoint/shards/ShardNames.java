package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.RefusedException;
import java.io.Serializable;
import java.util.Collection;
import java.util.OptionalInt;

/**
 * How the shards that a user saved are called: what comes before the rank, what comes after it, and
 * how the rank is written.
 *
 * @param before the rank
 * @param after the rank
 * @param digits the rank is filled up with zeros to this many digits
 */
record ShardNames(String before, String after, int digits) implements Serializable {
  private static final int MOST_DIGITS = 9;

  /**
   * The names that {@code pattern} gives to the files in which its {@code *} stands for {@code
   * ranks}.
   *
   * @param ranks the digits, as they are written
   * @throws RefusedException if some are filled up with zeros and some are not
   */
  static ShardNames of(String where, String before, String after, Collection<String> ranks) {
    int digits = 1;
    for (String rank : ranks) {
      if (rank.length() > 1 && rank.startsWith("0")) {
        digits = rank.length();
      }
    }
    ShardNames names = new ShardNames(before, after, digits);
    for (String rank : ranks) {
      if (!names.of(Integer.parseInt(rank)).equals(before + rank + after)) {
        throw new RefusedException(
            where,
            "the rank is written in two ways: '%s' beside '%s'. Keep the shards of one run."
                .formatted(before + rank + after, names.of(Integer.parseInt(rank))));
      }
    }
    return names;
  }

  /** The rank of a file with such a name, however its rank is written. */
  static OptionalInt rankIn(String before, String after, String fileName) {
    String digits = digitsIn(before, after, fileName);
    return digits == null ? OptionalInt.empty() : OptionalInt.of(Integer.parseInt(digits));
  }

  /** What stands in the place of the rank, or null if it is no number or the rest is not so. */
  static String digitsIn(String before, String after, String fileName) {
    if (fileName.length() <= before.length() + after.length()
        || !fileName.startsWith(before)
        || !fileName.endsWith(after)) {
      return null;
    }
    String middle = fileName.substring(before.length(), fileName.length() - after.length());
    boolean number =
        middle.length() <= MOST_DIGITS && middle.chars().allMatch(c -> c >= '0' && c <= '9');
    return number ? middle : null;
  }

  /** The name of the shard of {@code rank}. */
  String of(int rank) {
    String number = Integer.toString(rank);
    return before + "0".repeat(Math.max(0, digits - number.length())) + number + after;
  }

  /** The names with {@code *} for the rank. */
  String pattern() {
    return before + "*" + after;
  }
}
