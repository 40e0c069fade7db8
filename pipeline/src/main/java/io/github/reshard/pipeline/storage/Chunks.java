package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.storage.ByteRange;
import java.util.stream.LongStream;
import java.util.stream.Stream;

/** Cuts ranges into what one request reads. */
final class Chunks {
  private Chunks() {}

  /** {@code range}, as far as it lies before byte {@code end}, in pieces of {@code most} bytes. */
  static Stream<ByteRange> of(ByteRange range, int most, long end) {
    long bytes = Math.min(range.bytes(), Math.max(0, end - range.position()));
    return LongStream.range(0, (bytes + most - 1) / most)
        .mapToObj(
            k -> new ByteRange(range.position() + k * most, Math.min(most, bytes - k * most)));
  }
}
