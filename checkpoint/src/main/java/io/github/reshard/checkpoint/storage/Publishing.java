package io.github.reshard.checkpoint.storage;

import java.io.Serializable;
import java.util.UUID;

/**
 * How a run publishes a tag.
 *
 * @param overwrite whether a tag that is there is replaced
 * @param leads whether the file that names a tag will name this one; if not, it goes on naming the
 *     one that it names, unless that is none
 * @param run what the run is called: a worker of another one cannot write into this one, and a run
 *     that is begun again under its name takes up what it had
 */
public record Publishing(boolean overwrite, boolean leads, String run) implements Serializable {
  /** That of a run of its own, the tag of which {@code latest} will name. */
  public static Publishing of(boolean overwrite) {
    return new Publishing(overwrite, true, newRun());
  }

  /** What no other run is called. */
  public static String newRun() {
    return UUID.randomUUID().toString().substring(0, 8);
  }
}
