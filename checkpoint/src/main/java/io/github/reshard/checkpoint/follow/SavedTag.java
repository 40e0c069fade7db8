package io.github.reshard.checkpoint.follow;

import java.io.Serializable;

/**
 * A checkpoint in a directory that is watched.
 *
 * @param name of the directory that {@code save_checkpoint} was given, in the watched one, such as
 *     {@code checkpoint-500} of Hugging Face Trainer; empty if it is the watched one itself
 * @param tag the tag in it
 */
public record SavedTag(String name, String tag) implements Serializable, Comparable<SavedTag> {
  /** As people read it, and as it is called in the output. */
  @Override
  public String toString() {
    return name.isEmpty() ? tag : name + "/" + tag;
  }

  @Override
  public int compareTo(SavedTag other) {
    return toString().compareTo(other.toString());
  }
}
