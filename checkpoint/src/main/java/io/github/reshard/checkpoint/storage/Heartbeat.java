package io.github.reshard.checkpoint.storage;

import java.io.IOException;

/** Shows at intervals that a holder lives, until its lock is gone. */
public final class Heartbeat {
  /** One sign of life. */
  public interface Sign {
    /** Gives it; false if the lock is not this holder's any more. */
    boolean give() throws IOException;
  }

  private static volatile String doing = "";

  private Heartbeat() {}

  /** Says what this process is at, for those who wait: its next sign of life tells it. */
  public static void say(String what) {
    doing = what;
  }

  static String doing() {
    return doing;
  }

  /** Starts it, in a thread that does not keep the process alive. */
  public static void start(String name, Sign sign) {
    Thread thread = new Thread(() -> beat(sign), "holder of " + name);
    thread.setDaemon(true);
    thread.start();
  }

  private static void beat(Sign sign) {
    try {
      do {
        Thread.sleep(LockHolder.HEARTBEAT_MILLIS);
      } while (signed(sign));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private static boolean signed(Sign sign) {
    try {
      return sign.give();
    } catch (IOException | RuntimeException e) {
      // A file system that does not answer now may do so in a while; the run itself finds out.
      return true;
    }
  }
}
