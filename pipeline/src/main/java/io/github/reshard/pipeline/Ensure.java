package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.storage.OutputHeldException;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.pipeline.storage.Stores;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/**
 * The directory that a run of some size loads from, made if it is not there. All ranks may ask at
 * once: one has the output's lock and works, the others wait for it.
 */
public final class Ensure {
  private static final long FIRST_WAIT_MILLIS = 250;
  private static final long LONGEST_WAIT_MILLIS = 4_000;

  private final CommandOptions options;
  private final ProgressListener progress;
  private final List<String> notes = new ArrayList<>();
  private Optional<ReshardReport> report = Optional.empty();

  private Ensure(CommandOptions options, ProgressListener progress) {
    this.options = options;
    this.progress = progress;
  }

  /**
   * What was found or done.
   *
   * @param directory where to load from
   * @param report of the run that this call made, if it made one
   * @param notes what the user should know, a sentence each
   */
  public record Result(String directory, Optional<ReshardReport> report, List<String> notes) {
    public Result {
      notes = List.copyOf(notes);
    }
  }

  /**
   * Finds or makes what {@code options} ask for.
   *
   * @throws RefusedException if the input is refused
   * @throws OutputException if the output cannot be written, or holds what this program did not
   *     make
   */
  public static Result of(CommandOptions options, ProgressListener progress) {
    Ensure ensure = new Ensure(options, progress);
    try {
      String directory = ensure.run();
      return new Result(directory, ensure.report, ensure.notes);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private String run() throws IOException {
    long begin = System.nanoTime();
    progress.phase("reading headers", 0);
    if (Stores.isSeveral(options.getInput())) {
      throw new RefusedException(
          options.getInput(),
          "is several directories, and one is printed. Reshard them into one first.");
    }
    SourceStore store = Stores.source(options.getInput(), options);
    ResumeInput input = ResumeInput.of(store, options.getInput(), options.getTag() != null);
    if (!input.broken().isEmpty()) {
      notes.add(
          "%s not saved to the end and left out: going on from %s"
              .formatted(String.join(", ", input.broken()) + were(input.broken()), input.name()));
    }
    Source source = Source.find(store, input.location(), options.getTag(), options);
    Source.requireShards(options, source);
    int ranks = Job.ranks(source, options);
    if (source.isOf(ranks) && !comesFromBucket()) {
      noteOtherLatest(source);
      return source.files().directory();
    }
    String around =
        input.name().isEmpty() ? source.files().directory() : Stores.directory(options.getInput());
    String output =
        Stores.directory(options.getOutput() == null ? beside(around, ranks) : options.getOutput());
    String directory =
        input.name().isEmpty()
            ? output
            : Stores.source(output, options).child(output, input.name());
    Job.requireDistinct(input.location(), directory);
    make(
        Job.of(source, ranks, ZeroStage.AS_SAVED, Optional.of(directory), options.getPartBytes()),
        directory,
        begin);
    if (report.isPresent() && options.getKeep() != null) {
      notes.addAll(
          KeptCheckpoints.removeOlder(output, !input.name().isEmpty(), options.getKeep(), options));
    }
    return directory;
  }

  /** Whether it is asked for on a local disk and lies in a bucket, which no training loads from. */
  private boolean comesFromBucket() {
    return !Stores.isLocal(options.getInput())
        && options.getOutput() != null
        && Stores.isLocal(options.getOutput());
  }

  private static String were(List<String> names) {
    return names.size() == 1 ? " was" : " were";
  }

  private void noteOtherLatest(Source source) throws IOException {
    CheckpointFiles files = source.files();
    if (files.tag().isEmpty()) {
      return;
    }
    SourceStore store = source.store();
    Optional<String> latest = ResumeInput.latest(store, store.list(files.directory()));
    if (!latest.equals(Optional.of(files.tag()))) {
      notes.add(
          "load it with tag='%s': `latest` there %s"
              .formatted(files.tag(), latest.map(tag -> "names " + tag).orElse("is missing")));
    }
  }

  private static String beside(String directory, int ranks) {
    Path name = Stores.isLocal(directory) ? Path.of(directory).getFileName() : Path.of("x");
    boolean named = name != null && !name.toString().equals(".") && !name.toString().equals("..");
    String base = named ? directory : Path.of(directory).toAbsolutePath().normalize().toString();
    return base + "-world-" + ranks;
  }

  /** Makes the output unless it is there, when it is this run's turn. */
  private void make(Job job, String directory, long begin) throws IOException {
    ReshardedOutput output = new ReshardedOutput(directory, options);
    long waitMillis = FIRST_WAIT_MILLIS;
    while (true) {
      ReshardedOutput.State state = state(output, job);
      if (state == ReshardedOutput.State.CURRENT) {
        return;
      }
      if (state == ReshardedOutput.State.CHANGING) {
        waitMillis = pause(waitMillis);
        continue;
      }
      try {
        if (state == ReshardedOutput.State.FOREIGN) {
          throw new OutputException(
              directory,
              "holds what this program did not make, or what was changed since. If a run went on in it, give it as --input; else name another --output.");
        }
        TargetStore target = job.target(state == ReshardedOutput.State.OUTDATED, options);
        target.begin();
        // Another one may have made it between the look at it and the lock.
        if (state(output, job) != state) {
          target.abandon();
          continue;
        }
        report =
            Optional.of(
                ReshardPipeline.move(job, target, "moving bytes", options, progress, begin));
        return;
      } catch (OutputHeldException e) {
        progress.phase("waiting for " + e.holder(), 0);
      } catch (OutputException e) {
        // What another one is publishing looks like anything; what is wrong stays so.
        waitMillis = pause(waitMillis);
        if (state(output, job) == state) {
          throw e;
        }
        continue;
      }
      waitMillis = pause(waitMillis);
    }
  }

  private ReshardedOutput.State state(ReshardedOutput output, Job job) throws IOException {
    return output.state(job, options.getTrustMasters());
  }

  /** Longer each time, and not all ranks at once. */
  private static long pause(long millis) {
    try {
      Thread.sleep(millis / 2 + (long) (Math.random() * millis / 2));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException("interrupted while another run makes the output", e);
    }
    return Math.min(LONGEST_WAIT_MILLIS, millis * 2);
  }
}
