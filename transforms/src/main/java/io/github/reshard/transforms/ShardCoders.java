package io.github.reshard.transforms;

import org.apache.beam.sdk.coders.Coder;

/** Coders of the elements that a graph begins with. */
public final class ShardCoders {
  private ShardCoders() {}

  /** The coder of {@link ShardId}. */
  public static Coder<ShardId> shardId() {
    return Coders.SHARD_ID;
  }
}
