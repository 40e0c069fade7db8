package io.github.reshard.checkpoint.storage;

import java.io.IOException;
import java.util.function.BiPredicate;

/**
 * Who may write to an output: a run takes it at its beginning and says at intervals that it lives.
 */
public abstract class OutputLock {
  /**
   * Takes the output for {@code run}, from a dead holder too, and gives signs of life from now on.
   *
   * @param output for messages
   * @throws OutputHeldException if a living run has it
   */
  public final void acquire(String output, String run) throws IOException {
    LockHolder me = take(output, run, LockHolder::isDead);
    Heartbeat.start(output, () -> renew(me));
  }

  /**
   * The same for a job, which goes from one process to another and gives its signs of life by
   * adopting the lock in each.
   */
  public final void takeForJob(String output, String run) throws IOException {
    take(output, run, LockHolder::isGone);
  }

  /**
   * Takes the output.
   *
   * @param isDead whether a holder that was silent for so many milliseconds does not live
   * @return who has it now
   * @throws OutputHeldException if a living run has it
   */
  protected abstract LockHolder take(
      String output, String run, BiPredicate<LockHolder, Long> isDead) throws IOException;

  /** Shows that {@code me} lives; false if it has the output no more. */
  protected abstract boolean renew(LockHolder me) throws IOException;
}
