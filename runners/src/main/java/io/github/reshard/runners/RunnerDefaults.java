package io.github.reshard.runners;

import io.github.reshard.pipeline.CommandOptions;
import io.github.reshard.pipeline.ReshardOptions;
import io.github.reshard.pipeline.storage.Stores;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Optional;
import java.util.stream.Collectors;
import org.apache.beam.runners.direct.DirectOptions;
import org.apache.beam.runners.flink.FlinkPipelineOptions;
import org.apache.beam.sdk.options.FileStagingOptions;
import org.apache.beam.sdk.options.PipelineOptions;

/** What a runner needs to be told for this job, unless the user told it something else. */
final class RunnerDefaults {
  private static final String DIRECT = "DirectRunner";
  private static final String FLINK = "FlinkRunner";
  private static final String DATAFLOW = "DataflowRunner";

  private static final long FLINK_PART_BYTES = 16L << 20;
  private static final long FLINK_CHECKPOINT_MILLIS = 10_000;
  private static final long FLINK_BUNDLE_MILLIS = 100;

  private RunnerDefaults() {}

  /**
   * @param given the command line: what it sets is left alone
   */
  static void apply(PipelineOptions options, CommandLine given) {
    switch (options.getRunner().getSimpleName()) {
      case DIRECT -> direct(options.as(DirectOptions.class), given);
      case FLINK -> flink(options.as(FlinkPipelineOptions.class), given);
      case DATAFLOW -> {
        if (!given.has("filesToStage")) {
          options.as(FileStagingOptions.class).setFilesToStage(StagedClasspath.of(options));
        }
      }
      default -> {}
    }
  }

  /** Dataflow's workers are elsewhere: a path of this machine is none of theirs. */
  static void requireReachable(CommandOptions options) {
    if (!options.getRunner().getSimpleName().equals(DATAFLOW)) {
      return;
    }
    for (String location : Arrays.asList(options.getInput(), options.getOutput())) {
      if (location != null && Stores.isLocal(location)) {
        throw new UsageException(
            location
                + ": the workers of Dataflow do not see this machine's files; --input and --output"
                + " are in gs:// there");
      }
    }
  }

  /**
   * @throws UsageException if the work would be done elsewhere: nothing is written that other
   *     machines could see
   */
  static void requireThisMachine(CommandOptions options, Command command) {
    String runner = options.getRunner().getSimpleName();
    boolean here =
        runner.equals(DIRECT)
            || (runner.equals(FLINK)
                && FlinkCluster.of(options.as(FlinkPipelineOptions.class)).isEmpty());
    if (!here) {
      throw new UsageException(
          command.word() + " works on this machine; leave --runner and --flinkMaster out");
    }
  }

  private static void direct(DirectOptions options, CommandLine given) {
    // Both encode every element again and again to catch mistakes of a transform's author; tests
    // of each kind of job have them on.
    if (!given.has("enforceImmutability")) {
      options.setEnforceImmutability(false);
    }
    if (!given.has("enforceEncodability")) {
      options.setEnforceEncodability(false);
    }
    if (!given.has("targetParallelism")) {
      options.setTargetParallelism(Runtime.getRuntime().availableProcessors());
    }
    // Counters can be asked for while it runs only if run() does not wait.
    if (!given.has("blockOnRun")) {
      options.setBlockOnRun(false);
    }
  }

  private static void flink(FlinkPipelineOptions options, CommandLine given) {
    // Elements are immutable, so there is no need to copy them between operators.
    if (!given.has("fasterCopy")) {
      options.setFasterCopy(true);
    }
    // Flink deals parts to tasks by hash, once and for all: the more there are, the more even. In a
    // bucket each part is an object.
    ReshardOptions reshard = options.as(ReshardOptions.class);
    if (!given.has("partBytes")
        && reshard.getOutput() != null
        && Stores.isLocal(reshard.getOutput())) {
      reshard.setPartBytes(FLINK_PART_BYTES);
    }
    // Else Flink stores what each reader of the plan gets, in 512 network buffers: more than two
    // slots with 256 MiB of network memory have. It cannot deadlock here: no step joins two inputs,
    // and all read the plan before anything else.
    if (!given.has("executionModeForBatch")) {
      options.setExecutionModeForBatch("PIPELINED_FORCED");
    }
    if (given.command().equals(Command.FOLLOW.word())) {
      follow(options, given);
    }
    Optional<FlinkCluster> cluster = FlinkCluster.of(options);
    if (cluster.isPresent()) {
      if (!given.has("parallelism")) {
        cluster.get().parallelism().ifPresent(options::setParallelism);
      }
      if (!given.has("filesToStage")) {
        options.setFilesToStage(FlinkCluster.filesToStage(options));
      }
    } else if (!given.has("flinkConfDir")) {
      ClassLoader loader = Thread.currentThread().getContextClassLoader();
      if (loader instanceof URLClassLoader urls && loader != ClassLoader.getSystemClassLoader()) {
        options.setFlinkConfDir(configurationWith(urls.getURLs()).toString());
      }
    }
  }

  /**
   * A job without an end is watched and ended by its client; and as long as a source has not ended,
   * Flink takes checkpoints.
   */
  private static void follow(FlinkPipelineOptions options, CommandLine given) {
    if (!given.has("attachedMode")) {
      options.setAttachedMode(false);
    }
    if (!given.has("shutdownSourcesAfterIdleMs")) {
      options.setShutdownSourcesAfterIdleMs(Long.MAX_VALUE);
    }
    if (!given.has("checkpointingInterval")) {
      options.setCheckpointingInterval(FLINK_CHECKPOINT_MILLIS);
    }
    // What a checkpoint of Flink's does not keep is found in the output.
    if (!given.has("failOnCheckpointingErrors")) {
      options.setFailOnCheckpointingErrors(false);
    }
    // What a step puts out at the end of a bundle that a checkpoint ends is handed on with its next
    // element only, which never comes: the next ones of the run wait for what is in hand.
    if (!given.has("finishBundleBeforeCheckpointing")) {
      options.setFinishBundleBeforeCheckpointing(true);
    }
    // Several steps pack what they put out until a bundle ends: after 10 s, if Flink is not told.
    if (!given.has("maxBundleTimeMills")) {
      options.setMaxBundleTimeMills(FLINK_BUNDLE_MILLIS);
    }
  }

  /**
   * A Flink configuration that names the classpath. Under Maven the program lives in a class loader
   * of its own; Flink's task threads look in the system class loader and, through this, here.
   */
  private static Path configurationWith(URL[] classpath) {
    String jars =
        Arrays.stream(classpath).map(URL::toExternalForm).collect(Collectors.joining(";"));
    try {
      Path directory = Files.createTempDirectory("reshard-flink");
      // Deleted in the reverse order.
      directory.toFile().deleteOnExit();
      Path file = directory.resolve("flink-conf.yaml");
      file.toFile().deleteOnExit();
      // Parent first: what both can load must be one class, or its instances are not of it.
      Files.writeString(
          file, "pipeline.classpaths: " + jars + "\nclassloader.resolve-order: parent-first\n");
      return directory;
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write a temporary Flink configuration", e);
    }
  }
}
