package io.github.reshard.pipeline;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.List;

/**
 * Something that happened while a run was followed.
 *
 * @param kind what
 * @param checkpoint which checkpoint it is about; empty if none
 * @param message what people should know; empty if the numbers say it
 * @param ranks data-parallel ranks that it was resharded to
 * @param outputs what {@code save_checkpoint} would have been given on them
 * @param files of the checkpoint that was saved
 * @param bytes of these
 * @param wholeMillis when it was first seen whole, in milliseconds since 1970
 * @param beganMillis when its reshard began
 * @param publishedMillis when the last of its outputs was published
 * @param waiting how many whole checkpoints are not begun yet
 */
public record FollowEvent(
    Kind kind,
    String checkpoint,
    String message,
    List<Integer> ranks,
    List<String> outputs,
    int files,
    long bytes,
    long wholeMillis,
    long beganMillis,
    long publishedMillis,
    int waiting) {
  /** What may happen. */
  public enum Kind {
    /** A checkpoint is whole and its reshard begins. */
    BEGUN,
    /** A checkpoint was resharded. */
    PUBLISHED,
    /** A checkpoint stands in the output already. */
    KNOWN,
    /** A checkpoint is passed over, because that was asked for. */
    SKIPPED,
    /** A checkpoint stays incomplete. */
    GIVEN_UP,
    /** A checkpoint is refused. */
    REFUSED,
    /** A checkpoint vanished or changed while it was read; nothing of it was published. */
    GONE,
    /** Something to know. */
    NOTE,
    /** The output cannot be written. */
    FAILED,
    /** It ended as it was asked to. */
    OVER
  }

  private static final ObjectMapper JSON = new ObjectMapper();

  public FollowEvent {
    ranks = List.copyOf(ranks);
    outputs = List.copyOf(outputs);
  }

  /** Something that can be said in words. */
  static FollowEvent of(Kind kind, String checkpoint, String message) {
    return new FollowEvent(kind, checkpoint, message, List.of(), List.of(), 0, 0, 0, 0, 0, 0);
  }

  /** From whole to published, in milliseconds; clocks of two machines may differ. */
  public long latencyMillis() {
    return Math.max(0, publishedMillis - wholeMillis);
  }

  byte[] toBytes() {
    try {
      return JSON.writeValueAsBytes(this);
    } catch (JsonProcessingException e) {
      throw new UncheckedIOException(e);
    }
  }

  static FollowEvent parse(byte[] json) throws IOException {
    return JSON.readValue(json, FollowEvent.class);
  }
}
