package io.github.reshard.checkpoint.storage;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class FilesAheadTest {
  private static final int AT_ONCE = 4;

  private final Set<Thread> readers = ConcurrentHashMap.newKeySet();

  private static List<FileStat> files(int count) {
    return IntStream.range(0, count)
        .mapToObj(i -> new FileStat("dir/" + i, Integer.toString(i), i, "", false))
        .toList();
  }

  @Test
  void asManyAreReadAtOnceAsAllowedAndNoneMore() throws IOException {
    AtomicInteger inFlight = new AtomicInteger();
    AtomicInteger most = new AtomicInteger();
    AtomicInteger begun = new AtomicInteger();
    AtomicInteger used = new AtomicInteger();
    // Nobody gets on before there are as many as may be, so fewer at once would hang here.
    CyclicBarrier together = new CyclicBarrier(AT_ONCE);
    List<String> order = new ArrayList<>();
    FilesAhead.forEach(
        files(5 * AT_ONCE),
        AT_ONCE,
        file -> {
          most.accumulateAndGet(inFlight.incrementAndGet(), Math::max);
          assertThat(begun.incrementAndGet() - used.get()).isLessThanOrEqualTo(AT_ONCE);
          readers.add(Thread.currentThread());
          await(together);
          inFlight.decrementAndGet();
          return file.path();
        },
        (file, path) -> {
          assertThat(path).isEqualTo(file.path());
          order.add(file.name());
          used.incrementAndGet();
        });
    assertThat(most).hasValue(AT_ONCE);
    assertThat(order).isEqualTo(files(5 * AT_ONCE).stream().map(FileStat::name).toList());
    assertNoReaderIsLeft();
  }

  @Test
  void theFirstBadFileInOrderIsTheOneThatIsNamed() {
    CountDownLatch laterFailed = new CountDownLatch(1);
    List<String> used = new ArrayList<>();
    assertThatThrownBy(
            () ->
                FilesAhead.forEach(
                    files(20),
                    AT_ONCE,
                    file -> {
                      readers.add(Thread.currentThread());
                      if (file.name().equals("2")) {
                        // Only after one behind it has failed.
                        await(laterFailed);
                        throw new IOException("2 is bad");
                      }
                      if (file.name().equals("3")) {
                        laterFailed.countDown();
                        throw new IllegalArgumentException("3 is bad");
                      }
                      return file;
                    },
                    (file, content) -> used.add(file.name())))
        .isInstanceOf(IOException.class)
        .hasMessage("2 is bad");
    assertThat(used).containsExactly("0", "1");
    assertNoReaderIsLeft();
  }

  @Test
  void whatTheReaderOfTheFirstFileThrowsComesBeforeWhatTheSecondFileThrows() {
    assertThatThrownBy(
            () ->
                FilesAhead.forEach(
                    files(2),
                    AT_ONCE,
                    file -> {
                      if (file.name().equals("1")) {
                        throw new IOException("1 is bad");
                      }
                      return file;
                    },
                    (file, content) -> {
                      throw new IllegalStateException("not liked: " + file.name());
                    }))
        .isInstanceOf(IllegalStateException.class)
        .hasMessage("not liked: 0");
  }

  @Test
  void oneAtATimeNeedsNoThread() throws IOException {
    FilesAhead.forEach(
        files(3),
        1,
        file -> readers.add(Thread.currentThread()),
        (file, content) -> readers.add(Thread.currentThread()));
    assertThat(readers).containsExactly(Thread.currentThread());
  }

  private void assertNoReaderIsLeft() {
    assertThat(readers).isNotEmpty().doesNotContain(Thread.currentThread());
    for (Thread reader : readers) {
      try {
        reader.join(TimeUnit.MINUTES.toMillis(1));
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
      assertThat(reader.isAlive()).as(reader.getName()).isFalse();
    }
  }

  private static void await(CyclicBarrier barrier) throws IOException {
    try {
      barrier.await(1, TimeUnit.MINUTES);
    } catch (Exception e) {
      throw new IOException(e);
    }
  }

  private static void await(CountDownLatch latch) throws IOException {
    try {
      if (!latch.await(1, TimeUnit.MINUTES)) {
        throw new IOException("nothing failed");
      }
    } catch (InterruptedException e) {
      throw new IOException(e);
    }
  }
}
