package io.github.reshard.checkpoint.storage;

import io.github.reshard.checkpoint.OutputException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.file.AtomicMoveNotSupportedException;
import java.nio.file.DirectoryStream;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import java.util.Optional;
import java.util.function.BiPredicate;

/**
 * The lock of an output on a file system that machines may share: a file that says who holds it and
 * that its holder writes again every few seconds. A file is created by one of many at once on every
 * file system; kernel locks are not known on all of them.
 */
final class LocalLock extends OutputLock {
  private static final String DEAD = ".dead";
  private static final String TAKING = ".taking";

  private final Path file;

  LocalLock(Path file) {
    this.file = file;
  }

  @Override
  protected LockHolder take(String output, String run, BiPredicate<LockHolder, Long> isDead)
      throws IOException {
    LockHolder me = LockHolder.here(run);
    Path mine = file.resolveSibling(file.getFileName() + "." + run);
    try {
      while (!create(mine, me)) {
        Optional<byte[]> found = content();
        if (found.isEmpty()) {
          continue;
        }
        Optional<LockHolder> holder = LockHolder.parse(found.get());
        if (holder.filter(other -> other.run().equals(run)).isPresent()) {
          break; // A server that was asked twice says so of what it did the first time.
        }
        // The clock is the file system's: both files were written through it.
        Files.write(mine, me.toBytes());
        Optional<Long> now = modified(mine);
        Optional<Long> written = modified(file);
        if (now.isEmpty() || written.isEmpty()) {
          continue;
        }
        long silent = now.get() - written.get();
        boolean dead =
            holder
                .map(other -> isDead.test(other, silent))
                .orElse(silent > LockHolder.DEAD_AFTER_MILLIS);
        if (!dead) {
          throw new OutputHeldException(
              output, holder.map(LockHolder::describe).orElse("which has only just begun"));
        }
        takeAway(found.get(), run);
      }
    } finally {
      Files.deleteIfExists(mine);
    }
    removeTriesOfTheDead();
    return me;
  }

  /**
   * Shows that {@code run} lives, in this process from now on: a job goes from one to another.
   *
   * @return false if the lock is not {@code run}'s any more
   */
  boolean adopt(String run) throws IOException {
    Optional<LockHolder> holder =
        content().flatMap(LockHolder::parse).filter(found -> found.run().equals(run));
    if (holder.isEmpty()) {
      return false;
    }
    Path mine = file.resolveSibling(file.getFileName() + "." + run);
    try {
      Files.write(mine, LockHolder.here(run).since(holder.get()).now().toBytes());
      Files.move(mine, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    } catch (NoSuchFileException e) {
      // Somebody took it for what is left of a dead one; the next sign comes soon.
      return true;
    }
    return true;
  }

  /** What runs that were killed while they tried left; one that still tries makes its own again. */
  private void removeTriesOfTheDead() throws IOException {
    Path directory = file.toAbsolutePath().getParent();
    try (DirectoryStream<Path> tries =
        Files.newDirectoryStream(directory, path -> isTry(path.getFileName().toString()))) {
      for (Path left : tries) {
        Files.deleteIfExists(left);
      }
    }
  }

  /** What is being taken away at this moment is another's to remove. */
  private boolean isTry(String name) {
    return name.startsWith(file.getFileName() + ".")
        && !name.endsWith(DEAD)
        && !name.endsWith(TAKING);
  }

  /** Makes the lock appear with its content, unless there is one. */
  private boolean create(Path mine, LockHolder me) throws IOException {
    Files.write(mine, me.toBytes());
    try {
      Files.createLink(file, mine);
      return true;
    } catch (FileAlreadyExistsException | NoSuchFileException e) {
      return false;
    } catch (UnsupportedOperationException | IOException e) {
      if (Files.exists(file)) {
        return false;
      }
      // No hard links here. The content comes a moment later than the file.
      try {
        Files.write(file, me.toBytes(), StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
        return true;
      } catch (FileAlreadyExistsException there) {
        return false;
      }
    }
  }

  private Optional<byte[]> content() throws IOException {
    try {
      return Optional.of(Files.readAllBytes(file));
    } catch (NoSuchFileException e) {
      return Optional.empty();
    }
  }

  private static Optional<Long> modified(Path path) throws IOException {
    try {
      return Optional.of(Files.getLastModifiedTime(path).toMillis());
    } catch (NoSuchFileException e) {
      return Optional.empty();
    }
  }

  /**
   * Removes the lock of a dead holder. Of several that find it dead one does so at a time, and a
   * lock that is another one by now is put back.
   */
  private void takeAway(byte[] dead, String run) throws IOException {
    Path guard = file.resolveSibling(file.getFileName() + TAKING);
    synchronized (LocalLock.class) {
      try (FileChannel channel =
              FileChannel.open(guard, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
          FileLock lock = channel.lock()) {
        if (!lock.isValid() || content().filter(now -> Arrays.equals(now, dead)).isEmpty()) {
          return;
        }
        Path taken = file.resolveSibling(file.getFileName() + "." + run + DEAD);
        try {
          Files.move(file, taken, StandardCopyOption.ATOMIC_MOVE);
        } catch (NoSuchFileException | AtomicMoveNotSupportedException e) {
          return;
        }
        if (!Arrays.equals(Files.readAllBytes(taken), dead)) {
          Files.createLink(file, taken);
        }
        Files.deleteIfExists(taken);
      } finally {
        Files.deleteIfExists(guard);
      }
    }
  }

  @Override
  protected boolean renew(LockHolder me) throws IOException {
    if (!isOf(me.run())) {
      return false;
    }
    try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE)) {
      channel.write(ByteBuffer.wrap(me.now().toBytes()), 0);
      return true;
    } catch (NoSuchFileException e) {
      return false;
    }
  }

  private boolean isOf(String run) throws IOException {
    return content()
        .flatMap(LockHolder::parse)
        .filter(holder -> holder.run().equals(run))
        .isPresent();
  }

  /**
   * Checks that nobody took the output away from {@code run}, nor gave it free since.
   *
   * @throws OutputException if somebody did
   */
  void requireHeld(String output, String run) throws IOException {
    Optional<LockHolder> holder = content().flatMap(LockHolder::parse);
    if (holder.filter(found -> found.run().equals(run)).isEmpty()) {
      throw new OutputException(output, LockHolder.lost(holder));
    }
  }

  /** Whether a run that is not {@code run} has taken the output. */
  boolean isAnothers(String run) throws IOException {
    return content()
        .flatMap(LockHolder::parse)
        .filter(holder -> !holder.run().equals(run))
        .isPresent();
  }

  /** Who holds it and lives; empty if nobody does. */
  Optional<LockHolder> livingHolder() throws IOException {
    Optional<LockHolder> holder = content().flatMap(LockHolder::parse);
    if (holder.isEmpty()) {
      return Optional.empty();
    }
    Path probe = Files.createTempFile(file.toAbsolutePath().getParent(), ".reshard-", ".probe");
    try {
      Optional<Long> written = modified(file);
      if (written.isEmpty()) {
        return Optional.empty();
      }
      long silent = modified(probe).orElseThrow() - written.get();
      return holder.filter(found -> !found.isDead(silent));
    } finally {
      Files.delete(probe);
    }
  }

  /** Gives the output free, if it is {@code run}'s. */
  void release(String run) throws IOException {
    if (isOf(run)) {
      Files.deleteIfExists(file);
    }
  }
}
