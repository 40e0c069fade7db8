package io.github.reshard.checkpoint.format;

import java.io.IOException;

/** Reads a checkpoint of one format that was found. */
public interface CheckpointReader {
  /**
   * Reads its metadata and proves what that can prove.
   *
   * @param targetWorldSize data-parallel ranks that it is read for: what the files do not tell, and
   *     makes no difference at that size, is no reason to refuse them
   * @throws io.github.reshard.checkpoint.RefusedException if it is not whole, contradicts itself,
   *     or holds what is not understood
   */
  TrainingState read(int targetWorldSize) throws IOException;
}
