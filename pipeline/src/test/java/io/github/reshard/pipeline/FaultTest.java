package io.github.reshard.pipeline;

import static io.github.reshard.pipeline.Scratch.TAG;
import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.LocalTargetStore;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.checkpoint.zero.CheckpointFiles;
import io.github.reshard.checkpoint.zero.ReshardPlanner;
import io.github.reshard.transforms.JobConfig;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.beam.runners.direct.DirectOptions;
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

  private static final AtomicLong CALLS = new AtomicLong();
  private static volatile long failing;

  @TempDir Path scratch;

  private static void call(String what) throws IOException {
    if (CALLS.incrementAndGet() == failing) {
      throw new IOException("injected: " + what);
    }
  }

  private record FaultySource(LocalSourceStore store) implements SourceStore {
    @Override
    public Listing list(String directory) throws IOException {
      call("list " + directory);
      return store.list(directory);
    }

    @Override
    public RangedFile open(FileStat file) throws IOException {
      call("open " + file.path());
      return new FaultyRanged(store.open(file));
    }

    @Override
    public String child(String directory, String name) {
      return store.child(directory, name);
    }
  }

  private record FaultyRanged(RangedFile file) implements RangedFile {
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
      call("read " + path());
      file.readFully(position, target);
    }

    @Override
    public void close() throws IOException {
      file.close();
    }
  }

  private record FaultyTarget(LocalTargetStore store) implements TargetStore {
    @Override
    public void begin() throws IOException {
      call("begin");
      store.begin();
    }

    @Override
    public PositionalFile open(String path) throws IOException {
      call("create " + path);
      PositionalFile file = store.open(path);
      return new PositionalFile() {
        @Override
        public void write(long position, ByteBuffer source) throws IOException {
          if (CALLS.incrementAndGet() == failing) {
            // As a full disk does: some of it arrives.
            ByteBuffer half = source.duplicate();
            half.limit(half.position() + half.remaining() / 2);
            file.write(position, half);
            throw new IOException("injected: no space left in " + path);
          }
          file.write(position, source);
        }

        @Override
        public void close() throws IOException {
          file.close();
          call("close " + path);
        }
      };
    }

    @Override
    public void finish(String path, long bytes, boolean executable) throws IOException {
      call("sync " + path);
      store.finish(path, bytes, executable);
    }

    @Override
    public void publish(List<String> paths, String manifest, byte[] content) throws IOException {
      call("publish");
      store.publish(paths, manifest, content);
      call("after publish");
    }

    @Override
    public void abandon() throws IOException {
      store.abandon();
    }
  }

  private void run(Path output, boolean overwrite) throws IOException {
    SourceStore source = new FaultySource(new LocalSourceStore());
    CheckpointFiles files =
        CheckpointFiles.discover(source, SOURCE.toString(), Optional.empty());
    ReshardPlan plan = ReshardPlanner.plan(source, files, 3, 2048);
    TargetStore target =
        new FaultyTarget(new LocalTargetStore(output.toString(), plan.tag(), overwrite));
    target.begin();
    ReshardOptions options = Resharding.options(SOURCE, output, 3);
    options.as(DirectOptions.class).setEnforceImmutability(false);
    options.as(DirectOptions.class).setEnforceEncodability(false);
    Pipeline pipeline = Pipeline.create(options);
    ReshardPipeline.apply(pipeline, plan, source, target, new JobConfig(false, 0));
    pipeline.run().waitUntilFinish();
  }

  @Test
  void noFailingCallPublishesHalfAndARerunIsFine() throws IOException {
    Map<String, String> source = Scratch.contents(SOURCE);
    failing = 0;
    CALLS.set(0);
    run(scratch.resolve("want"), false);
    long calls = CALLS.get();
    Map<String, String> want = Scratch.contents(scratch.resolve("want"));
    int tried = 0;
    int survived = 0;
    for (long k = 1; k <= calls; k++) {
      Path output = scratch.resolve("fault-" + k);
      CALLS.set(0);
      failing = k;
      boolean failed = false;
      try {
        run(output, false);
      } catch (IOException | RuntimeException e) {
        failed = true;
      }
      failing = 0;
      tried++;
      if (Files.exists(output.resolve("latest"))) {
        assertThat(Scratch.contents(output))
            .as("published before call %d failed", k)
            .isEqualTo(want);
      } else {
        assertThat(output.resolve(TAG)).as("after call %d failed", k).doesNotExist();
        assertThat(failed).as("call %d failed and nothing was published", k).isTrue();
        run(output, false);
        assertThat(Scratch.contents(output)).as("the rerun after call %d", k).isEqualTo(want);
      }
      survived++;
    }
    assertThat(Scratch.contents(SOURCE)).isEqualTo(source);
    System.out.printf(
        "injected faults: %d of %d storage calls failed once each, %d survived%n",
        tried, calls, survived);
  }
}
