package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.testing.GoldenCase;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.beam.runners.direct.DirectOptions;
import org.apache.beam.runners.direct.DirectRunner;
import org.apache.beam.sdk.PipelineResult;
import org.apache.beam.sdk.options.PipelineOptionsFactory;

/** Runs the main job as a user would, on the DirectRunner. */
final class Resharding {
  private static final Path ROOT = temporaryDirectory();
  private static final Map<String, Path> DONE = new ConcurrentHashMap<>();

  private Resharding() {}

  /** The case at {@code worldSize} ranks; made once. */
  static Path of(GoldenCase golden, int worldSize) {
    return DONE.computeIfAbsent(
        golden.name() + "-" + worldSize,
        name -> {
          Path output = ROOT.resolve(name);
          run(options(golden.source(), output, worldSize));
          return output;
        });
  }

  /** Hears of progress and says nothing. */
  static final ProgressListener SILENT =
      new ProgressListener() {
        @Override
        public void phase(String what, long totalBytes) {}

        @Override
        public void running(PipelineResult result) {}
      };

  static ReshardOptions options(Path input, Path output, int worldSize) {
    ReshardOptions options = PipelineOptionsFactory.as(ReshardOptions.class);
    options.setRunner(DirectRunner.class);
    options.as(DirectOptions.class).setEnforceImmutability(false);
    options.as(DirectOptions.class).setEnforceEncodability(false);
    options.as(DirectOptions.class).setTargetParallelism(2);
    options.setInput(input.toString());
    options.setOutput(output == null ? null : output.toString());
    options.setTargetWorldSize(worldSize);
    return options;
  }

  /**
   * Has the runner check that every element survives its coder and that no transform changes what
   * it was given, which takes most of a small job's time; the launcher leaves it out, too.
   */
  static ReshardOptions checked(ReshardOptions options) {
    options.as(DirectOptions.class).setEnforceImmutability(true);
    options.as(DirectOptions.class).setEnforceEncodability(true);
    return options;
  }

  /**
   * One worker: beside one that waits for a bucket or a disk, another asks without a pause whether
   * there is work.
   */
  static ReshardOptions byOneWorker(ReshardOptions options) {
    options.as(DirectOptions.class).setTargetParallelism(1);
    return options;
  }

  static ReshardReport run(ReshardOptions options) {
    try {
      return ReshardPipeline.run(options, SILENT);
    } catch (RuntimeException e) {
      awaitWorkers();
      throw e;
    }
  }

  /**
   * The DirectRunner says that a job failed while its other workers end what they are at. A process
   * of its own would end them; here they would still write while a test looks.
   */
  private static void awaitWorkers() {
    for (Thread thread : Thread.getAllStackTraces().keySet()) {
      if (thread.getName().startsWith("direct-runner-worker")) {
        try {
          thread.join(Duration.ofMinutes(1).toMillis());
        } catch (InterruptedException e) {
          Thread.currentThread().interrupt();
        }
        if (thread.isAlive()) {
          throw new IllegalStateException(thread + " does not end");
        }
      }
    }
  }

  /** What {@code failure} was caused by; runners wrap what a transform throws. */
  static <T extends Throwable> T cause(Throwable failure, Class<T> type) {
    return find(failure, type)
        .orElseThrow(() -> new AssertionError("expected " + type.getSimpleName(), failure));
  }

  /** The same where it may be another cause. */
  static <T extends Throwable> Optional<T> find(Throwable failure, Class<T> type) {
    for (Throwable at = failure; at != null; at = at.getCause()) {
      if (type.isInstance(at)) {
        return Optional.of(type.cast(at));
      }
    }
    return Optional.empty();
  }

  /** Why resharding {@code input} is refused. */
  static String refusal(Path input, Path output, int worldSize) {
    return refusal(options(input, output, worldSize));
  }

  /** Why what {@code options} ask for is refused. */
  static String refusal(ReshardOptions options) {
    try {
      run(options);
    } catch (RuntimeException e) {
      return cause(e, RefusedException.class).getMessage();
    }
    throw new AssertionError("expected a refusal");
  }

  private static Path temporaryDirectory() {
    try {
      return Files.createTempDirectory(Path.of("target"), "resharded-");
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
