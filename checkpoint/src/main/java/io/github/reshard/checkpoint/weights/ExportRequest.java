package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.torch.DType;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * What an export is asked for.
 *
 * @param dtype the type that parameters are written as; empty for the one that the run computed
 *     with
 * @param shardBytes bytes of tensors that one file holds at most
 * @param stripPrefix what is taken off the names that begin with it
 * @param only a pattern with {@code *} and {@code ?}, or several with commas between them, of the
 *     names that are exported
 * @param paramGroups of the optimizer whose states are written too, as JSON has them; empty if none
 *     are
 * @param partBytes the size of a part of a file
 */
public record ExportRequest(
    Optional<DType> dtype,
    long shardBytes,
    Optional<String> stripPrefix,
    Optional<String> only,
    Optional<List<Map<String, Object>>> paramGroups,
    long partBytes) {
  /** What {@code save_pretrained} takes unless it is told otherwise: {@code "5GB"}. */
  public static final long DEFAULT_SHARD_BYTES = 5_000_000_000L;
}
