package io.github.reshard.pipeline;

import static io.github.reshard.testing.Scratch.TAG;
import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.ReshardPlanner;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.LocalTargetStore;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import io.github.reshard.transforms.JobConfig;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.ReadWriteLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import org.apache.beam.sdk.Pipeline;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Every call of the storage seam that can fail, failing once. */
@Timeout(900)
class FaultTest {
  /** Of the smallest checkpoints: fewer calls, fewer runs. */
  private static final Path SOURCE =
      Path.of(System.getProperty("reshard.testdata"), "zero12", "z2-rmsprop", "source");

  private static final int RANKS = 3;

  /**
   * Of so many reruns one is the job's, and the others the loop's, which writes no manifest: what a
   * store makes of what it finds has nothing to do with a runner.
   */
  private static final int BY_THE_JOB = 10;

  private static final long NONE = 0;

  /** Runs at once: a pipeline waits more than it works. */
  private static final int AT_ONCE = 4;

  private static final Map<Integer, Run> RUNS = new ConcurrentHashMap<>();

  @TempDir Path scratch;

  /** The calls of one run of the job. Stores name it by a number, because they are serialized. */
  private static final class Run {
    final AtomicLong calls = new AtomicLong();
    final long failing;
    private final ReadWriteLock alive = new ReentrantReadWriteLock();
    private boolean dead;

    Run(long failing) {
      this.failing = failing;
    }

    /** A runner's threads outlive a pipeline that failed; those of a process that ended do not. */
    void end() {
      alive.writeLock().lock();
      try {
        dead = true;
      } finally {
        alive.writeLock().unlock();
      }
    }
  }

  private interface Call<T> {
    T now() throws IOException;
  }

  private interface Step {
    void now() throws IOException;
  }

  private static <T> T call(int number, String what, Call<T> call) throws IOException {
    Run run = RUNS.get(number);
    run.alive.readLock().lock();
    try {
      if (run.dead) {
        throw new IOException("the run is over: " + what);
      }
      if (run.calls.incrementAndGet() == run.failing) {
        throw new IOException("injected: " + what);
      }
      return call.now();
    } finally {
      run.alive.readLock().unlock();
    }
  }

  private static void step(int number, String what, Step step) throws IOException {
    call(
        number,
        what,
        () -> {
          step.now();
          return null;
        });
  }

  private record FaultySource(int run, LocalSourceStore store) implements SourceStore {
    @Override
    public Listing list(String directory) throws IOException {
      return call(run, "list " + directory, () -> store.list(directory));
    }

    @Override
    public RangedFile open(FileStat file) throws IOException {
      return call(run, "open " + file.path(), () -> new FaultyRanged(run, store.open(file)));
    }

    @Override
    public String child(String directory, String name) {
      return store.child(directory, name);
    }
  }

  private record FaultyRanged(int run, RangedFile file) implements RangedFile {
    @Override
    public String path() {
      return file.path();
    }

    @Override
    public long size() {
      return file.size();
    }

    @Override
    public void readFully(long position, ByteBuffer target) throws IOException {
      step(run, "read " + path(), () -> file.readFully(position, target));
    }

    @Override
    public void close() throws IOException {
      file.close();
    }
  }

  private record FaultyTarget(int run, LocalTargetStore store) implements TargetStore {
    @Override
    public void begin() throws IOException {
      step(run, "begin", store::begin);
    }

    @Override
    public void keep(byte[] content) throws IOException {
      step(run, "keep the plan", () -> store.keep(content));
    }

    @Override
    public byte[] kept() throws IOException {
      return call(run, "read the plan", store::kept);
    }

    @Override
    public PositionalFile open(String path) throws IOException {
      PositionalFile file = call(run, "create " + path, () -> store.open(path));
      return new PositionalFile() {
        @Override
        public void write(long position, ByteBuffer source) throws IOException {
          step(
              run,
              "begin to write " + path,
              () -> {
                ByteBuffer half = source.duplicate();
                half.limit(half.position() + half.remaining() / 2);
                file.write(position, half);
              });
          // A full disk: half of it is there when the call fails.
          step(run, "write " + path, () -> file.write(position, source));
        }

        @Override
        public void close() throws IOException {
          file.close();
          step(run, "close " + path, () -> {});
        }
      };
    }

    @Override
    public void finish(String path, long bytes, boolean executable) throws IOException {
      step(run, "sync " + path, () -> store.finish(path, bytes, executable));
    }

    @Override
    public boolean publish(List<String> paths, String manifest, byte[] content) throws IOException {
      boolean cleared = call(run, "publish", () -> store.publish(paths, manifest, content));
      step(run, "after publish", () -> {});
      return cleared;
    }

    @Override
    public void abandon() throws IOException {
      store.abandon();
    }
  }

  /** Runs the job; returns how many calls it made. */
  private static long run(Path output, int number, long failing) throws IOException {
    Run run = new Run(failing);
    RUNS.put(number, run);
    try {
      SourceStore source = new FaultySource(number, new LocalSourceStore());
      CheckpointFiles files = CheckpointFiles.discover(source, SOURCE.toString(), Optional.empty());
      ReshardPlan plan = ReshardPlanner.plan(source, files, RANKS, 2048);
      TargetStore target =
          new FaultyTarget(number, new LocalTargetStore(output.toString(), plan.tag(), false));
      target.begin();
      Pipeline pipeline =
          Pipeline.create(Resharding.byOneWorker(Resharding.options(SOURCE, output, RANKS)));
      ReshardPipeline.apply(
          pipeline, plan, source, target, new JobConfig(false, JobConfig.AS_SAVED, 0));
      pipeline.run().waitUntilFinish();
      return run.calls.get();
    } finally {
      run.end();
    }
  }

  @Test
  void noFailingCallPublishesHalfAndARerunIsFine() throws Exception {
    Map<String, String> source = Scratch.contents(SOURCE);
    long calls = run(scratch.resolve("want"), 0, NONE);
    Map<String, String> want = Scratch.contents(scratch.resolve("want"));
    ExecutorService threads = Executors.newFixedThreadPool(AT_ONCE);
    List<Future<Boolean>> published = new ArrayList<>();
    for (int k = 1; k <= calls; k++) {
      int failing = k;
      published.add(threads.submit(() -> survives(failing, want)));
    }
    threads.shutdown();
    int whole = 0;
    for (Future<Boolean> one : published) {
      whole += one.get() ? 1 : 0;
    }
    assertThat(Scratch.contents(SOURCE)).isEqualTo(source);
    System.out.printf(
        "injected faults: each of %d storage calls failed once, %d survived, %d of them after"
            + " publishing%n",
        calls, published.size(), whole);
  }

  /** Whether the tag was published although call {@code k} failed. */
  private boolean survives(int k, Map<String, String> want) throws IOException {
    Path output = scratch.resolve("fault-" + k);
    boolean failed = false;
    try {
      run(output, k, k);
    } catch (IOException | RuntimeException e) {
      failed = true;
    }
    if (Files.exists(output.resolve("latest"))) {
      assertThat(Scratch.contents(output)).as("published before call %d failed", k).isEqualTo(want);
      return true;
    }
    assertThat(output.resolve(TAG)).as("after call %d failed", k).doesNotExist();
    assertThat(failed).as("call %d failed and nothing was published", k).isTrue();
    Path lock = output.resolve(".reshard-" + TAG + ".lock");
    if (Files.exists(lock)) {
      // The process of the run that failed is this one, and it lives.
      Files.writeString(lock, Files.readString(lock).replaceFirst("pid=\\d+", "pid=999999999"));
    }
    if (k % BY_THE_JOB == 0) {
      run(output, -k, NONE);
      assertThat(Scratch.contents(output)).as("the rerun after call %d", k).isEqualTo(want);
      return false;
    }
    WithoutBeam.reshard(SOURCE, output, RANKS);
    assertThat(withoutManifest(Scratch.contents(output)))
        .as("the rerun after call %d", k)
        .isEqualTo(withoutManifest(want));
    return false;
  }

  private static Map<String, String> withoutManifest(Map<String, String> contents) {
    Map<String, String> files = new TreeMap<>(contents);
    files.keySet().removeIf(name -> name.endsWith("reshard-manifest.json"));
    return files;
  }
}
