package io.github.reshard.pipeline.storage;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicBoolean;

/** Requests to a distant store, several at a time: nearly all of each is waiting. */
final class InParallel {
  /** Unbounded, since who uses it is bounded; its threads do not keep the program alive. */
  static final ExecutorService REQUESTS =
      Executors.newCachedThreadPool(
          task -> {
            Thread thread = new Thread(task, "reshard-requests");
            thread.setDaemon(true);
            return thread;
          });

  static final int AT_ONCE = 16;

  private InParallel() {}

  /** Something that is done with an element. */
  interface Action<T> {
    void accept(T element) throws IOException;
  }

  /**
   * Does {@code action} with every element. After a failure no other is begun; it is thrown when
   * those under way have ended.
   */
  static <T> void forEach(List<T> elements, Action<T> action) throws IOException {
    if (elements.size() == 1) {
      action.accept(elements.get(0));
      return;
    }
    Semaphore free = new Semaphore(AT_ONCE);
    AtomicBoolean failed = new AtomicBoolean();
    List<Future<?>> running = new ArrayList<>();
    for (T element : elements) {
      free.acquireUninterruptibly();
      if (failed.get()) {
        break;
      }
      running.add(
          REQUESTS.submit(
              () -> {
                try {
                  action.accept(element);
                  return null;
                } catch (IOException | RuntimeException e) {
                  failed.set(true);
                  throw e;
                } finally {
                  free.release();
                }
              }));
    }
    Exception failure = null;
    for (Future<?> one : running) {
      try {
        get(one);
      } catch (IOException | RuntimeException e) {
        failure = failure == null ? e : failure;
      }
    }
    if (failure instanceof IOException io) {
      throw io;
    }
    if (failure != null) {
      throw (RuntimeException) failure;
    }
  }

  /** What a request gave, or its own exception. */
  static <T> T get(Future<T> request) throws IOException {
    try {
      return request.get();
    } catch (ExecutionException e) {
      if (e.getCause() instanceof IOException io) {
        throw io;
      }
      if (e.getCause() instanceof RuntimeException unchecked) {
        throw unchecked;
      }
      throw new IOException(e.getCause());
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IOException("interrupted", e);
    }
  }
}
