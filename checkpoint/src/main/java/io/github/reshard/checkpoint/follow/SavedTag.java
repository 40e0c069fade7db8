package io.github.reshard.checkpoint.follow;

import java.io.Serializable;
import java.math.BigInteger;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A checkpoint in a directory that is watched.
 *
 * @param name of the directory that {@code save_checkpoint} was given, in the watched one, such as
 *     {@code checkpoint-500} of Hugging Face Trainer; empty if it is the watched one itself
 * @param tag the tag in it
 */
public record SavedTag(String name, String tag) implements Serializable, Comparable<SavedTag> {
  private static final Pattern RUN = Pattern.compile("[0-9]+|[^0-9]+");

  /** As people read it, and as it is called in the output. */
  @Override
  public String toString() {
    return name.isEmpty() ? tag : name + "/" + tag;
  }

  /** Numbers by their value: {@code global_step9} comes before {@code global_step10}. */
  @Override
  public int compareTo(SavedTag other) {
    String left = toString();
    String right = other.toString();
    Matcher a = RUN.matcher(left);
    Matcher b = RUN.matcher(right);
    while (a.find() && b.find()) {
      boolean numbers = isNumber(a.group()) && isNumber(b.group());
      int order =
          numbers
              ? new BigInteger(a.group()).compareTo(new BigInteger(b.group()))
              : a.group().compareTo(b.group());
      if (order != 0) {
        return order;
      }
    }
    // One begins as the other one, or only zeros in front of numbers tell them apart.
    int longer = Integer.compare(left.length(), right.length());
    return longer != 0 ? longer : left.compareTo(right);
  }

  private static boolean isNumber(String run) {
    return run.charAt(0) >= '0' && run.charAt(0) <= '9';
  }
}
