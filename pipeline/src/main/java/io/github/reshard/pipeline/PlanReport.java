package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.pipeline.storage.Stores;
import java.io.IOException;
import java.io.ObjectOutputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.util.List;

/**
 * What a reshard would do.
 *
 * @param plan the plan
 * @param planBytes what the plan takes when it is handed to a worker
 * @param tagIsThere whether the output already holds the tag
 */
public record PlanReport(ReshardPlan plan, long planBytes, boolean tagIsThere) {
  /**
   * Buffers of one worker thread: one for what is moved, one for the weights it is held against.
   */
  private static final long BUFFER_BYTES = 2L << 20;

  /**
   * Plans without touching anything, for each size that is asked for.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if the reshard would be refused
   */
  public static List<PlanReport> all(CommandOptions options) {
    try {
      return Job.all(options).stream().map(job -> of(job, options)).toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /**
   * The same, for one size.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if the reshard would be refused
   */
  public static PlanReport of(CommandOptions options) {
    return all(options).get(0);
  }

  private static PlanReport of(Job job, CommandOptions options) {
    try {
      ReshardPlan plan = job.plan();
      CountingStream counter = new CountingStream();
      try (ObjectOutputStream out = new ObjectOutputStream(counter)) {
        out.writeObject(plan);
      }
      boolean tagIsThere =
          job.output().isPresent() && Stores.holds(job.output().get(), plan.tag(), options);
      return new PlanReport(plan, counter.bytes, tagIsThere);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** The files that would be written. */
  public List<TargetFile> files() {
    return plan.targets();
  }

  /** In how many parts {@code file} would be written. */
  public long parts(TargetFile file) {
    return -Math.floorDiv(-file.bytes(), plan.partBytes());
  }

  /** Bytes that one worker thread needs beside the Java machine itself, whatever it moves. */
  public long workerBytes() {
    return BUFFER_BYTES + planBytes;
  }

  private static final class CountingStream extends OutputStream {
    private long bytes;

    @Override
    public void write(int value) {
      bytes++;
    }

    @Override
    public void write(byte[] buffer, int from, int length) {
      bytes += length;
    }
  }
}
