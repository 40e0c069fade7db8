package io.github.reshard.pipeline;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.List;

/**
 * How a reshard ended, as a worker writes it down for the source of the job.
 *
 * @param kind how
 * @param message why; empty if it is published
 * @param paths of files beside the tag that changed
 * @param millis when, in milliseconds since 1970
 */
record ReshardEnd(Kind kind, String message, List<String> paths, long millis) {
  /** How it may end. */
  enum Kind {
    PUBLISHED,
    REFUSED,
    /** The checkpoint is another one by now, or gone. */
    CHANGED,
    /** Something beside the tag, that is not of this checkpoint, changed while it was read. */
    BESIDE_CHANGED,
    /** The output cannot be written. */
    FAILED
  }

  private static final ObjectMapper JSON = new ObjectMapper();

  ReshardEnd {
    paths = List.copyOf(paths);
  }

  static ReshardEnd of(Kind kind, String message) {
    return new ReshardEnd(kind, message, List.of(), System.currentTimeMillis());
  }

  byte[] toBytes() {
    try {
      return JSON.writeValueAsBytes(this);
    } catch (JsonProcessingException e) {
      throw new UncheckedIOException(e);
    }
  }

  static ReshardEnd parse(byte[] json) throws IOException {
    return JSON.readValue(json, ReshardEnd.class);
  }
}
