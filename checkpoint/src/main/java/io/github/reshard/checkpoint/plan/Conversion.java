package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.torch.DType;
import java.io.Serializable;

/**
 * A cast of every element while it is copied: round to nearest, ties to even, as PyTorch casts
 * master weights to the module's type; exact to a wider type.
 *
 * @param from the type of an element where it is read
 * @param to the type of an element where it is written
 */
public record Conversion(DType from, DType to) implements Serializable {
  /** How many bytes are read for {@code bytes} bytes that are written. */
  public long sourceBytes(long bytes) {
    return bytes / to.bytes() * from.bytes();
  }
}
