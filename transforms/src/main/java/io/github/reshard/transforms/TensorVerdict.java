package io.github.reshard.transforms;

import io.github.reshard.checkpoint.state.ParamId;
import java.io.Serializable;

/**
 * How one state of one parameter compares in two checkpoints.
 *
 * @param parameter the parameter
 * @param state the state
 * @param problem why the two could not be compared element by element (one does not have it,
 *     another type, another size), or empty
 * @param bytes of the full tensor
 * @param crcA CRC-32 of the first one's full tensor
 * @param crcB CRC-32 of the second one's
 * @param element the first element that differs, or -1
 * @param valueA what the first one holds there
 * @param valueB what the second one holds there
 */
public record TensorVerdict(
    ParamId parameter,
    String state,
    String problem,
    long bytes,
    int crcA,
    int crcB,
    long element,
    String valueA,
    String valueB)
    implements Serializable {
  /** Whether the two hold the same elements. */
  public boolean equal() {
    return problem.isEmpty() && element < 0;
  }
}
