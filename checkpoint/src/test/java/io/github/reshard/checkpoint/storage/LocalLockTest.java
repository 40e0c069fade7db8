package io.github.reshard.checkpoint.storage;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class LocalLockTest {
  private static final LockHolder ELSEWHERE =
      new LockHolder(
          "aaaaaaaa",
          "node7",
          "another boot",
          17,
          "2026-01-01T00:00:00Z",
          "2026-01-01T00:00:01Z",
          "");

  @TempDir Path temp;
  private Path file;
  private LocalLock lock;

  @BeforeEach
  void makeLock() {
    file = temp.resolve(".reshard-step3.lock");
    lock = new LocalLock(file);
  }

  private void hold(LockHolder holder, long silentMillis) throws IOException {
    Files.write(file, holder.toBytes());
    Files.setLastModifiedTime(file, FileTime.fromMillis(System.currentTimeMillis() - silentMillis));
  }

  private void assertOnlyTheLockIsThere() throws IOException {
    try (var files = Files.list(temp)) {
      assertThat(files).containsExactly(file);
    }
  }

  /** How many of runs that begin at once get it. */
  private long winnersOf(int runs) throws Exception {
    CountDownLatch start = new CountDownLatch(1);
    ExecutorService threads = Executors.newFixedThreadPool(runs);
    List<Future<Boolean>> tried = new ArrayList<>();
    for (int i = 0; i < runs; i++) {
      String run = "run%05d".formatted(i);
      tried.add(
          threads.submit(
              () -> {
                start.await();
                try {
                  lock.acquire("OUT", run);
                  return true;
                } catch (OutputHeldException e) {
                  return false;
                }
              }));
    }
    start.countDown();
    long winners = 0;
    for (Future<Boolean> one : tried) {
      winners += one.get() ? 1 : 0;
    }
    threads.shutdown();
    return winners;
  }

  @Test
  void ofManyAtOnceOneHasIt() throws Exception {
    for (int round = 0; round < 20; round++) {
      assertThat(winnersOf(16)).isEqualTo(1);
      assertOnlyTheLockIsThere();
      Files.delete(file);
    }
  }

  @Test
  void ofManyThatFindADeadHolderOneTakesItOver() throws Exception {
    for (int round = 0; round < 20; round++) {
      hold(ELSEWHERE, LockHolder.DEAD_AFTER_MILLIS + 60_000);
      assertThat(winnersOf(16)).isEqualTo(1);
      assertOnlyTheLockIsThere();
      Files.delete(file);
    }
  }

  @Test
  void itSaysWhoHasItWhereAndSinceWhen() throws IOException {
    hold(ELSEWHERE, 5_000);

    assertThatThrownBy(() -> lock.acquire("OUT", "bbbbbbbb"))
        .isInstanceOf(OutputHeldException.class)
        .hasMessage(
            "OUT: another run is writing to it: node7, process 17, since 2026-01-01T00:00:01Z. Wait for that one, or name another --output.");
    assertOnlyTheLockIsThere();
  }

  @Test
  void aHolderElsewhereThatGivesNoSignOfLifeIsDead() throws IOException {
    hold(ELSEWHERE, LockHolder.DEAD_AFTER_MILLIS + 60_000);

    lock.acquire("OUT", "bbbbbbbb");

    assertThat(Files.readString(file)).startsWith("run=bbbbbbbb\n");
    assertOnlyTheLockIsThere();
  }

  @Test
  void aHolderOnThisMachineIsJudgedByItsProcess() throws IOException {
    LockHolder here = LockHolder.here("aaaaaaaa");
    hold(here, LockHolder.DEAD_AFTER_MILLIS + 60_000);
    assertThatThrownBy(() -> lock.acquire("OUT", "bbbbbbbb"))
        .isInstanceOf(OutputHeldException.class);

    LockHolder sameNumber =
        new LockHolder(
            "aaaaaaaa",
            here.host(),
            here.machine(),
            here.pid(),
            "1999-01-01T00:00:00Z",
            here.since(),
            "");
    hold(sameNumber, 0);
    lock.acquire("OUT", "bbbbbbbb");

    assertThat(Files.readString(file)).startsWith("run=bbbbbbbb\n");
  }

  @Test
  void aLockThatIsNoneIsOneUntilItIsOld() throws IOException {
    Files.writeString(file, "half wri");
    assertThatThrownBy(() -> lock.acquire("OUT", "bbbbbbbb"))
        .isInstanceOf(OutputHeldException.class)
        .hasMessageContaining("only just begun");

    Files.setLastModifiedTime(
        file,
        FileTime.fromMillis(System.currentTimeMillis() - LockHolder.DEAD_AFTER_MILLIS - 60_000));
    lock.acquire("OUT", "bbbbbbbb");

    assertThat(Files.readString(file)).startsWith("run=bbbbbbbb\n");
  }

  @Test
  void onlyItsHolderGivesItFree() throws IOException {
    lock.acquire("OUT", "aaaaaaaa");
    lock.release("bbbbbbbb");
    assertThat(file).exists();

    lock.release("aaaaaaaa");
    assertThat(temp).isEmptyDirectory();
  }

  @Test
  void whoLostItDoesNotPublish() throws IOException {
    lock.acquire("OUT", "aaaaaaaa");
    lock.requireHeld("OUT", "aaaaaaaa");
    hold(ELSEWHERE, 0);

    assertThatThrownBy(() -> lock.requireHeld("OUT", "bbbbbbbb"))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("another run has taken it over")
        .hasMessageContaining("node7, process 17");
  }

  @Test
  void whoWasTakenOverByARunThatHasEndedDoesNotPublish() throws IOException {
    lock.acquire("OUT", "aaaaaaaa");
    hold(ELSEWHERE, 0);
    lock.release(ELSEWHERE.run());

    assertThatThrownBy(() -> lock.requireHeld("OUT", "bbbbbbbb"))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("the lock of this run is gone");
  }

  @Test
  void whatItSaysIsRead() {
    assertThat(LockHolder.parse(ELSEWHERE.toBytes())).contains(ELSEWHERE);
    assertThat(LockHolder.parse("pid=3".getBytes(StandardCharsets.UTF_8))).isEmpty();
    assertThat(LockHolder.parse("run=a\npid=x\n".getBytes(StandardCharsets.UTF_8))).isEmpty();
    assertThat(LockHolder.parse(new byte[0])).isEmpty();
  }

  @Test
  void theLockTellsWhatItsHolderIsAtAndIsAlwaysOfOneLength() {
    Heartbeat.say("moving bytes: 3.0 GiB of 10.0 GiB (30 %)");
    try {
      LockHolder now = ELSEWHERE.now();
      LockHolder read = LockHolder.parse(now.toBytes()).orElseThrow();
      assertThat(read).isEqualTo(now);
      assertThat(read.describe())
          .isEqualTo(
              "node7, process 17, since 2026-01-01T00:00:01Z, moving bytes: 3.0 GiB of 10.0 GiB (30 %)");
      assertThat(now.toBytes()).hasSameSizeAs(ELSEWHERE.toBytes());
      Heartbeat.say("x\n".repeat(200));
      assertThat(ELSEWHERE.now().toBytes()).hasSameSizeAs(ELSEWHERE.toBytes());
    } finally {
      Heartbeat.say("");
    }
    assertThat(ELSEWHERE.now().describe()).endsWith("since 2026-01-01T00:00:01Z");
  }
}
