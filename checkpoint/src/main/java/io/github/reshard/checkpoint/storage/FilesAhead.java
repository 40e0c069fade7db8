package io.github.reshard.checkpoint.storage;

import java.io.IOException;
import java.util.ArrayDeque;
import java.util.Collection;
import java.util.Queue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/**
 * Reads many files, some of them ahead of the one that is looked at: on a distant store nearly all
 * of each read is waiting.
 */
public final class FilesAhead {
  private FilesAhead() {}

  /** Reads a file; called from several threads. */
  public interface Read<T> {
    T read(FileStat file) throws IOException;
  }

  /** Looks at what was read; called by one thread, in order. */
  public interface Use<T> {
    void accept(FileStat file, T content) throws IOException;
  }

  /**
   * Reads all {@code files} and looks at them in their order, as one loop would do it: what a file
   * throws is thrown when those before it have been looked at, and those behind it are not.
   *
   * @param atOnce how many are being read, or were and wait to be looked at, at most; with 1 there
   *     are no threads
   */
  public static <T> void forEach(Collection<FileStat> files, int atOnce, Read<T> read, Use<T> use)
      throws IOException {
    if (atOnce == 1 || files.size() < 2) {
      for (FileStat file : files) {
        use.accept(file, read.read(file));
      }
      return;
    }
    ExecutorService threads =
        Executors.newFixedThreadPool(
            Math.min(atOnce, files.size()),
            task -> {
              Thread thread = new Thread(task, "reshard-headers");
              thread.setDaemon(true);
              return thread;
            });
    try {
      Queue<Ahead<T>> ahead = new ArrayDeque<>();
      for (FileStat file : files) {
        if (ahead.size() == atOnce) {
          ahead.remove().use(use);
        }
        ahead.add(new Ahead<>(file, threads.submit(() -> read.read(file))));
      }
      while (!ahead.isEmpty()) {
        ahead.remove().use(use);
      }
    } finally {
      // After a failure nobody waits for those behind it; their threads end with their requests.
      threads.shutdownNow();
    }
  }

  private record Ahead<T>(FileStat file, Future<T> content) {
    void use(Use<T> use) throws IOException {
      T read;
      try {
        read = content.get();
      } catch (ExecutionException e) {
        if (e.getCause() instanceof IOException io) {
          throw io;
        }
        if (e.getCause() instanceof RuntimeException unchecked) {
          throw unchecked;
        }
        if (e.getCause() instanceof Error error) {
          throw error;
        }
        throw new IllegalStateException(e.getCause());
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new IOException("interrupted while reading " + file.path(), e);
      }
      use.accept(file, read);
    }
  }
}
