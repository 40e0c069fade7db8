package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.IoReason;
import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.storage.LockHolder;
import io.github.reshard.checkpoint.storage.OutputHeldException;
import io.github.reshard.checkpoint.storage.OutputLock;
import io.github.reshard.pipeline.storage.ObjectStore.Found;
import java.io.IOException;
import java.util.List;
import java.util.Optional;
import java.util.function.BiPredicate;

/**
 * The lock of an output in a bucket: an object that says who holds it and that its holder writes
 * again every few seconds. It is made, renewed and taken over under generation preconditions, so
 * that of many at once one succeeds.
 */
final class BucketLock extends OutputLock {
  private final ObjectStore store;
  private final String name;

  BucketLock(ObjectStore store, String name) {
    this.store = store;
    this.name = name;
  }

  @Override
  protected LockHolder take(String output, String run, BiPredicate<LockHolder, Long> isDead)
      throws IOException {
    LockHolder me = LockHolder.here(run);
    while (!store.putIfAbsent(name, me.toBytes())) {
      Optional<Found> found = store.find(name);
      if (found.isEmpty()) {
        continue;
      }
      Optional<LockHolder> holder = LockHolder.parse(store.read(found.get()));
      if (holder.filter(other -> other.run().equals(run)).isPresent()) {
        break; // The answer to the request that made it was lost.
      }
      long silent = silentMillis(found.get(), run);
      if (holder.isPresent() && !isDead.test(holder.get(), silent)) {
        throw new OutputHeldException(output, holder.get().describe());
      }
      if (store.replace(found.get(), me.toBytes())) {
        break;
      }
    }
    return me;
  }

  /**
   * Shows that {@code run} lives, in this process from now on: a job goes from one to another.
   *
   * @return false if the lock is not {@code run}'s any more
   */
  boolean adopt(String run) throws IOException {
    Optional<Found> found = ofRun(run);
    if (found.isEmpty()) {
      return false;
    }
    Optional<LockHolder> holder = LockHolder.parse(store.read(found.get()));
    LockHolder me = LockHolder.here(run);
    return store.replace(found.get(), holder.map(me::since).orElse(me).now().toBytes())
        || isOf(run);
  }

  /** Whether {@code run} has it. */
  boolean isOf(String run) throws IOException {
    return ofRun(run).isPresent();
  }

  /** How long ago the lock was written, by the store's own clock. */
  private long silentMillis(Found lock, String run) throws IOException {
    String probe = name + "." + run;
    store.put(probe, new byte[0]);
    Optional<Found> now = store.find(probe);
    now.ifPresent(
        found -> {
          try {
            store.delete(List.of(found));
          } catch (IOException e) {
            throw new OutputException(store.uri(probe), "cannot be removed: " + IoReason.of(e), e);
          }
        });
    return now.map(found -> found.writtenMillis() - lock.writtenMillis()).orElse(0L);
  }

  @Override
  protected boolean renew(LockHolder me) throws IOException {
    Optional<Found> found = ofRun(me.run());
    return found.isPresent() && store.replace(found.get(), me.now().toBytes());
  }

  private Optional<Found> ofRun(String run) throws IOException {
    Optional<Found> found = store.find(name);
    if (found.isEmpty()) {
      return found;
    }
    boolean own =
        LockHolder.parse(store.read(found.get()))
            .filter(holder -> holder.run().equals(run))
            .isPresent();
    return own ? found : Optional.empty();
  }

  /**
   * Checks that nobody took the output away from {@code run}, nor gave it free since.
   *
   * @throws OutputException if somebody did
   */
  void requireHeld(String output, String run) throws IOException {
    if (ofRun(run).isEmpty()) {
      throw new OutputException(output, LockHolder.lost(holder()));
    }
  }

  private Optional<LockHolder> holder() throws IOException {
    Optional<Found> found = store.find(name);
    return found.isEmpty() ? Optional.empty() : LockHolder.parse(store.read(found.get()));
  }

  /** Who holds it and lives; empty if nobody does. */
  Optional<LockHolder> livingHolder() throws IOException {
    Optional<Found> found = store.find(name);
    if (found.isEmpty()) {
      return Optional.empty();
    }
    Optional<LockHolder> holder = LockHolder.parse(store.read(found.get()));
    long silent = silentMillis(found.get(), "probe");
    return holder.filter(other -> !other.isDead(silent));
  }

  /**
   * Gives the output free, if it is {@code run}'s. A sign of life that is given at the same moment
   * makes the lock another object, which is removed as well.
   */
  void release(String run) throws IOException {
    for (Optional<Found> mine = ofRun(run); mine.isPresent(); mine = ofRun(run)) {
      try {
        store.delete(List.of(mine.get()));
      } catch (IOException | OutputException e) {
        // Whoever may write and not remove leaves a lock that names nobody.
        store.replace(mine.get(), new byte[0]);
        throw e;
      }
    }
  }
}
