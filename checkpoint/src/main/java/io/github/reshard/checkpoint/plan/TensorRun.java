package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.state.ParamId;
import java.io.Serializable;

/**
 * Which bytes of a full tensor a slice holds, whatever the world size: the elements in C order,
 * little endian.
 *
 * @param parameter the parameter
 * @param state the state
 * @param offset the first byte, counted from the beginning of the full tensor
 */
public record TensorRun(ParamId parameter, String state, long offset) implements Serializable {
  /** The run {@code bytes} further on in the same tensor. */
  public TensorRun plus(long bytes) {
    return new TensorRun(parameter, state, offset + bytes);
  }
}
