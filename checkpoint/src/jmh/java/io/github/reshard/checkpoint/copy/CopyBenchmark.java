package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.plan.CastCheck;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.LocalTargetStore;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.DType;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * Copying 1 GiB of master weights from one local file into another, 64 MiB over and over: read,
 * CRC, check the cast, write. The files stay in the page cache, so this is what the program costs
 * and not what a disk does.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.SECONDS)
@Fork(1)
@Warmup(iterations = 2, time = 1)
@Measurement(iterations = 3, time = 1)
public class CopyBenchmark {
  private static final int MASTERS_BYTES = 64 << 20;

  /** The module's type that the masters are checked against, or none. */
  @Param({"none", "BFLOAT16", "FLOAT16"})
  public String cast;

  /** Where the files are; the temporary directory if empty. */
  @Param("")
  public String directory;

  private Path work;
  private LocalTargetStore store;
  private RangedFile masters;
  private RangedFile weights;
  private PositionalFile target;
  private SliceCopy slice;
  private final SliceCopier copier = new SliceCopier();

  @Setup
  public void setUp() throws IOException {
    Path parent = Path.of(directory.isEmpty() ? System.getProperty("java.io.tmpdir") : directory);
    work = Files.createTempDirectory(parent, "reshard-copy");
    DType module = cast.equals("none") ? null : DType.valueOf(cast);
    masters = write("masters", MASTERS_BYTES, (bytes, bits) -> bytes.putInt(bits));
    CastCheck claim = null;
    if (module != null) {
      weights =
          write(
              "weights",
              MASTERS_BYTES / 2,
              (bytes, bits) -> bytes.putShort((short) WeightCast.toBits(bits, module)));
      claim = new CastCheck("weight", 0, DType.FLOAT32, module, new Address(1, 0, 0));
    }
    slice =
        new SliceCopy(
            new Address(0, 0, 0),
            new Address(0, 0, 0),
            MASTERS_BYTES,
            true,
            0,
            1,
            claim,
            null,
            null);
    store = new LocalTargetStore(work.toString(), "tag", false);
    store.begin();
    target = store.open("tag/masters");
  }

  @TearDown
  public void tearDown() throws IOException {
    target.close();
    masters.close();
    if (weights != null) {
      weights.close();
    }
    store.abandon();
    Files.deleteIfExists(work.resolve("weights"));
    Files.deleteIfExists(work.resolve("masters"));
    Files.delete(work);
  }

  @Benchmark
  public int copyOneGibibyte() throws IOException {
    int crcs = 0;
    for (int i = 0; i < (1 << 30) / MASTERS_BYTES; i++) {
      crcs ^= copier.copy(slice, file -> file == 0 ? masters : weights, target);
    }
    return crcs;
  }

  private interface Element {
    void put(ByteBuffer bytes, int masterBits);
  }

  /** A file of the same master weights each time, as {@code element} stores them. */
  private RangedFile write(String name, int bytes, Element element) throws IOException {
    ByteBuffer content = ByteBuffer.allocateDirect(bytes).order(ByteOrder.LITTLE_ENDIAN);
    Random random = new Random(1);
    while (content.hasRemaining()) {
      element.put(content, Float.floatToRawIntBits((random.nextFloat() - 0.5f) / 8));
    }
    content.flip();
    Path path = work.resolve(name);
    try (FileChannel channel =
        FileChannel.open(path, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE)) {
      while (content.hasRemaining()) {
        channel.write(content);
      }
    }
    LocalSourceStore source = new LocalSourceStore();
    for (FileStat file : source.list(work.toString()).files()) {
      if (file.name().equals(name)) {
        return source.open(file);
      }
    }
    throw new IOException(path + " was not listed");
  }
}
