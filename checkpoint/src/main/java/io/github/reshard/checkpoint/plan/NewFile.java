package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import java.util.List;

/**
 * A small file that the plan says all of, such as an index.
 *
 * @param content its bytes
 */
@SuppressWarnings("ArrayRecordComponent") // Never compared.
public record NewFile(byte[] content) implements Recipe {
  @Override
  public List<ByteSegment> skeleton(
      ReshardPlan plan, SourceStore store, int target, List<Integer> crcs) {
    return List.of(new ByteSegment(0, content));
  }
}
