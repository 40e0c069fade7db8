package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import java.io.IOException;
import java.io.Serializable;
import java.util.List;

/**
 * How a target file is made. Each writer of a format has recipes of its own; a plan holds them by
 * the thousand and goes to every worker, so one is a few numbers and names, not a file's content.
 */
public interface Recipe extends Serializable {
  /**
   * Every byte of the file that is not payload; the same ones that were planned.
   *
   * @param store reads the source
   * @param target index of the file in {@link ReshardPlan#targets()}
   * @param crcs for each entry of the file, the CRC-32 of its payload
   */
  List<ByteSegment> skeleton(ReshardPlan plan, SourceStore store, int target, List<Integer> crcs)
      throws IOException;

  /** Whether the file may be executed: a script that lies beside a tag. */
  default boolean isExecutable(ReshardPlan plan) {
    return false;
  }
}
