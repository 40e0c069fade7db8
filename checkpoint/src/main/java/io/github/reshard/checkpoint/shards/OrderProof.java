package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.copy.WeightCast;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.torch.DType;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Optional;

/**
 * Whether the master weights, read in a certain order, give the model's weights. The job compares
 * every element of the order that is chosen; to choose it, the ends of every fragment are enough.
 */
final class OrderProof {
  /** Elements at either end of a fragment. */
  private static final int SAMPLE = 4096;

  private final DeepSpeedReading reading;

  OrderProof(DeepSpeedReading reading) {
    this.reading = reading;
  }

  /**
   * The first parameter whose masters do not give its weights if they lie as {@code layout} says.
   *
   * @param thoroughly all elements are compared instead of a sample
   */
  Optional<String> firstMismatch(ParameterSet set, ZeroLayout layout, boolean thoroughly)
      throws IOException {
    for (int p = 0; p < layout.parameters().size(); p++) {
      ModuleWeight weight = set.weights().get(p);
      if (weight == null) {
        continue;
      }
      DType master = set.statesOf(p).get(States.MASTER);
      for (Extent extent : layout.extentsOf(p)) {
        Address partition =
            set.partitions().get(new Partition(extent.rank(), extent.bucket(), States.MASTER));
        long end = extent.elements();
        for (long at = 0; at < end; ) {
          long length = Math.min(SAMPLE, end - at);
          ByteBuffer masters =
              read(
                  partition.plus((extent.bucketStart() + at) * master.bytes()),
                  length * master.bytes());
          ByteBuffer weights =
              read(
                  weight.source().plus((extent.parameterStart() + at) * weight.dtype().bytes()),
                  length * weight.dtype().bytes());
          if (WeightCast.firstMismatch(masters, master, weights, weight.dtype()) >= 0) {
            return Optional.of(layout.parameters().get(p).name());
          }
          boolean skips = !thoroughly && at == 0 && end > 2 * SAMPLE;
          at = skips ? end - SAMPLE : at + length;
        }
      }
    }
    return Optional.empty();
  }

  private ByteBuffer read(Address address, long bytes) throws IOException {
    return reading
        .store()
        .read(reading.sources().get(address.file()).stat(), address.offset(), bytes);
  }
}
