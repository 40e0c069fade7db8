package io.github.reshard.checkpoint.template;

import java.util.List;
import java.util.Map;

/**
 * What a checkpoint of another trainer holds.
 *
 * @param name where it is
 * @param parts what its keys begin with, and what lies under that
 * @param mostChunks of any tensor
 * @param files how many it has
 * @param bytes of all of them
 * @param remark who loads it, in a sentence
 */
public record Contents(
    String name, List<Part> parts, int mostChunks, int files, long bytes, String remark) {
  public Contents {
    parts = List.copyOf(parts);
  }

  /**
   * Keys that begin alike.
   *
   * @param word what they begin with
   * @param tensors how many tensors
   * @param elements of all of these
   * @param elementsByType of all of these, by the type of an element
   * @param objects how many objects that are no tensors
   */
  public record Part(
      String word, int tensors, long elements, Map<String, Long> elementsByType, int objects) {}
}
