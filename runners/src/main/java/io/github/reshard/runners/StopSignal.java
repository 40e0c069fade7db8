package io.github.reshard.runners;

import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * Hears that the process is to end, by Ctrl-C or SIGTERM, and gives the job time to end well. To be
 * stopped is how a job without an end ends, so that the exit code is its own.
 */
final class StopSignal {
  /** After so long the process ends all the same. */
  private static final long PATIENCE_MILLIS = 9_500;

  private final AtomicBoolean given = new AtomicBoolean();

  /** Listens from now on. */
  static StopSignal listen() {
    StopSignal signal = new StopSignal();
    Runtime.getRuntime().addShutdownHook(new Thread(signal::hear, "stop"));
    return signal;
  }

  private void hear() {
    given.set(true);
    try {
      // The main thread halts the process before that.
      TimeUnit.MILLISECONDS.sleep(PATIENCE_MILLIS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  boolean isGiven() {
    return given.get();
  }

  /** Ends the process, if it is to end, with the exit code of a job that is over. */
  void end(int code) {
    if (isGiven()) {
      Runtime.getRuntime().halt(code);
    }
  }
}
