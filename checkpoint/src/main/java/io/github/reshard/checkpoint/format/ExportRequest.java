package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.torch.DType;
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
 * @param optimizer whether the optimizer's states are written too
 * @param partBytes the size of a part of a file
 */
public record ExportRequest(
    Optional<DType> dtype,
    long shardBytes,
    Optional<String> stripPrefix,
    Optional<String> only,
    boolean optimizer,
    long partBytes) {
  /** What {@code save_pretrained} takes unless it is told otherwise: {@code "5GB"}. */
  public static final long DEFAULT_SHARD_BYTES = 5_000_000_000L;
}
