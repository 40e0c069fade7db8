package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.IOException;
import java.util.Optional;
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
import org.openjdk.jmh.annotations.Warmup;

/** Reading all headers of a ZeRO-3 checkpoint, which is in memory, and planning its reshard. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Fork(1)
@Warmup(iterations = 2, time = 1)
@Measurement(iterations = 3, time = 1)
public class PlanBenchmark {
  @Param("1000")
  public int parameters;

  @Param("64")
  public int ranks;

  @Param("48")
  public int targetRanks;

  private UniformCheckpoint store;
  private CheckpointFiles files;

  @Setup
  public void setUp() throws IOException {
    store = new UniformCheckpoint(parameters, ranks);
    files = CheckpointFiles.discover(store, "uniform", Optional.empty());
  }

  @Benchmark
  public ReshardPlan plan() throws IOException {
    return ReshardPlanner.plan(store, files, targetRanks, 64 << 20);
  }
}
