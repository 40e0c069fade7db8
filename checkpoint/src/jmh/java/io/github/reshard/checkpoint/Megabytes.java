package io.github.reshard.checkpoint;

import org.openjdk.jmh.annotations.AuxCounters;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.State;

/** Megabytes, of a million bytes, that a benchmark went through: JMH reports them by the second. */
@AuxCounters
@State(Scope.Thread)
public class Megabytes {
  public double megabytes;

  public void add(long bytes) {
    megabytes += bytes / 1e6;
  }
}
