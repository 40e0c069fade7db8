package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.Megabytes;
import java.nio.ByteBuffer;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.Warmup;

/** The CRC-32 of a buffer as large as the one that slices are copied through, and of two runs. */
@State(Scope.Benchmark)
@Fork(1)
@Warmup(iterations = 2, time = 1)
@Measurement(iterations = 3, time = 1)
public class Crc32Benchmark {
  private final ByteBuffer buffer = ByteBuffer.allocateDirect(1 << 20);
  private int crcA;
  private int crcB;
  private long bytesB;

  @Setup
  public void setUp() {
    Random random = new Random(1);
    byte[] content = new byte[buffer.capacity()];
    random.nextBytes(content);
    buffer.put(content);
    crcA = random.nextInt();
    crcB = random.nextInt();
    bytesB = 0x2aaaaaa; // 44 MB; every second bit is a multiplication
  }

  @Benchmark
  public long ofBuffer(Megabytes done) {
    CRC32 crc = new CRC32();
    crc.update(buffer.clear());
    done.add(buffer.capacity());
    return crc.getValue();
  }

  @Benchmark
  @BenchmarkMode(Mode.AverageTime)
  @OutputTimeUnit(TimeUnit.NANOSECONDS)
  public int combine() {
    return Crc32Combine.combine(crcA, crcB, bytesB);
  }
}
