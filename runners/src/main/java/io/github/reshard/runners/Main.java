package io.github.reshard.runners;

import io.github.reshard.checkpoint.IoReason;
import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.pipeline.CommandName;
import io.github.reshard.pipeline.CommandOptions;
import io.github.reshard.pipeline.Ensure;
import io.github.reshard.pipeline.ExportPipeline;
import io.github.reshard.pipeline.FollowPipeline;
import io.github.reshard.pipeline.ForeignInspection;
import io.github.reshard.pipeline.Inspection;
import io.github.reshard.pipeline.JobStagedException;
import io.github.reshard.pipeline.PlanReport;
import io.github.reshard.pipeline.ReshardPipeline;
import io.github.reshard.pipeline.ReshardReport;
import io.github.reshard.pipeline.VerifyPipeline;
import io.github.reshard.pipeline.VerifyReport;
import io.github.reshard.pipeline.storage.Stores;
import io.github.reshard.transforms.Manifest;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.beam.sdk.options.ApplicationNameOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.util.ReleaseInfo;

/**
 * The command {@code reshard}. Exit codes: 0 done, 2 wrong usage, 3 the input was refused, 4 the
 * output cannot be written, 5 {@code verify} found a difference, 1 anything else.
 */
public final class Main {
  /**
   * Set by the launcher when stderr is a terminal; Java 17 itself can only tell for all streams.
   */
  private static final String TERMINAL_VARIABLE = "RESHARD_TERMINAL";

  /** Set by programs that read the progress: {@code json}. */
  private static final String PROGRESS_VARIABLE = "RESHARD_PROGRESS";

  /** Chooses the runner where there is no argument, as in {@code mvn -Drunner=FlinkRunner}. */
  private static final String RUNNER_PROPERTY = "runner";

  /** What {@code simplelogger.properties} keeps down. */
  private static final List<String> QUIET_LOGGERS =
      List.of(
          "defaultLogLevel",
          "log.org.apache.flink",
          "log.org.apache.flink.runtime.operators.BatchTask",
          "log.org.apache.beam.runners.flink");

  private final PrintStream out;
  private final PrintStream err;
  private final Map<String, String> environment;
  private final String defaultRunner;

  /** That of a command that runs until it is told to stop, else null. */
  private StopSignal stop;

  Main(PrintStream out, PrintStream err, Map<String, String> environment, String defaultRunner) {
    this.out = out;
    this.err = err;
    this.environment = environment;
    this.defaultRunner = defaultRunner;
  }

  /** Runs the command. */
  public static void main(String[] args) {
    boolean debug = CommandLine.asksForDebug(args);
    if (debug) {
      for (String logger : QUIET_LOGGERS) {
        System.setProperty("org.slf4j.simpleLogger." + logger, "info");
      }
    }
    // Names of files and the arrow are not ASCII, whatever the locale.
    PrintStream out = utf8(FileDescriptor.out);
    PrintStream err = utf8(FileDescriptor.err);
    Main main = new Main(out, err, System.getenv(), System.getProperty(RUNNER_PROPERTY, ""));
    int code = main.run(args);
    out.flush();
    err.flush();
    if (main.stop != null) {
      main.stop.end(code);
    }
    // A runner's threads may live on. Inside Maven a plain return is what lets Maven end well.
    boolean embedded = Main.class.getClassLoader() != ClassLoader.getSystemClassLoader();
    if (code != 0 || !embedded) {
      System.exit(code);
    }
  }

  private static PrintStream utf8(FileDescriptor descriptor) {
    return new PrintStream(new FileOutputStream(descriptor), true, StandardCharsets.UTF_8);
  }

  /** Runs the command and returns the exit code; whatever is thrown becomes one message. */
  int run(String... args) {
    if (CommandLine.asksForHelp(args)) {
      out.print(HelpText.of(Command.helpedIn(args), CommandName.typed(environment)));
      return 0;
    }
    if (CommandLine.asksForVersion(args)) {
      out.println(version());
      return 0;
    }
    try {
      if (args.length > 0 && args[0].equals(Completion.WORD)) {
        out.print(Completion.of(args));
        return 0;
      }
      if (args.length == 1 && args[0].equals(Completion.MAN)) {
        out.print(HelpText.man(Manifest.toolVersion()));
        return 0;
      }
      CommandOptions options = options(args);
      return switch (Command.helpedIn(args)) {
        case RESHARD -> reshard(options);
        case INSPECT -> inspect(options);
        case DOCTOR -> doctor(options);
        case ENSURE -> ensure(options);
        case VERIFY -> verify(options);
        case PLAN -> plan(options);
        case EXPORT -> export(options);
        case FOLLOW -> follow(options);
        case CLEANUP -> cleanup(options);
      };
    } catch (Exception | LinkageError | OutOfMemoryError | StackOverflowError e) {
      Failure failure = Failure.of(e);
      err.println("reshard: " + failure.message());
      if (CommandLine.asksForDebug(args)) {
        e.printStackTrace(err);
      }
      return failure.exitCode();
    }
  }

  /** The options that {@code args} ask for, checked, with what the runner needs filled in. */
  CommandOptions options(String... args) {
    KnownOptions known =
        defaultRunner.isBlank() && CommandLine.hasOwnAlone(args)
            ? KnownOptions.own()
            : KnownOptions.registered();
    CommandLine commandLine = CommandLine.parse(known, args);
    if (!defaultRunner.isBlank()) {
      commandLine = commandLine.orElse(Options.RUNNER_NAME, defaultRunner);
    }
    Command.of(commandLine.command()).require(commandLine);
    CommandOptions options;
    try {
      options =
          PipelineOptionsFactory.fromArgs(commandLine.beamArgs())
              .withValidation()
              .as(CommandOptions.class);
      if (!commandLine.has("appName")) {
        // The beginning of the job's name, which Flink's page shows; else the name of this class.
        options.as(ApplicationNameOptions.class).setAppName("reshard");
      }
      RunnerDefaults.apply(options, commandLine);
    } catch (IllegalArgumentException e) {
      throw new UsageException(refusedByBeam(commandLine, e), e);
    }
    RunnerDefaults.requireReachable(options);
    return options;
  }

  /** Beam's complaint in one line, with the option that it is about, which Beam leaves out. */
  private static String refusedByBeam(CommandLine commandLine, IllegalArgumentException complaint) {
    for (String arg : commandLine.beamArgs()) {
      try {
        PipelineOptionsFactory.fromArgs(arg).create();
      } catch (IllegalArgumentException e) {
        return arg + ": " + firstLine(e);
      }
    }
    return firstLine(complaint);
  }

  private static String firstLine(Exception e) {
    return String.valueOf(e.getMessage()).lines().findFirst().orElse("");
  }

  private Progress progress() {
    Progress.Style style = Progress.Style.PLAIN;
    if ("json".equals(environment.get(PROGRESS_VARIABLE))) {
      style = Progress.Style.JSON;
    } else if ("1".equals(environment.get(TERMINAL_VARIABLE))) {
      style = Progress.Style.TERMINAL;
    }
    return new Progress(err, style, System::nanoTime).start();
  }

  /** This program, and what it runs with. */
  private static String version() {
    return "reshard %s%nBeam %s%nJava %s (%s)"
        .formatted(
            Manifest.toolVersion(),
            ReleaseInfo.getReleaseInfo().getVersion(),
            Runtime.version(),
            System.getProperty("java.vendor"));
  }

  private int reshard(CommandOptions options) {
    List<ReshardReport> reports;
    try (Progress progress = progress()) {
      reports = ReshardPipeline.runAll(options, progress);
    } catch (JobStagedException e) {
      out.println(e.getMessage());
      return 0;
    }
    if (options.getJson()) {
      out.println(ReshardReport.json(reports));
    } else {
      reports.forEach(report -> out.println(Summary.of(report)));
    }
    return 0;
  }

  private int doctor(CommandOptions options) {
    RunnerDefaults.requireThisMachine(options, Command.DOCTOR);
    ReshardReport report;
    try (Progress progress = progress()) {
      report = ReshardPipeline.check(options, progress);
    }
    out.println(options.getJson() ? report.json() : Summary.ofCheck(report));
    return 0;
  }

  private int export(CommandOptions options) {
    ReshardReport report;
    try (Progress progress = progress()) {
      report = ExportPipeline.run(options, progress);
    } catch (JobStagedException e) {
      out.println(e.getMessage());
      return 0;
    }
    out.println(options.getJson() ? report.json() : Summary.ofExport(report));
    return 0;
  }

  private int follow(CommandOptions options) {
    FollowLines lines = new FollowLines(out, options.getJson());
    StopSignal listening = StopSignal.listen();
    stop = listening;
    try {
      FollowPipeline.run(options, listening::isGiven, lines::accept);
      return lines.end();
    } catch (JobStagedException e) {
      out.println(e.getMessage());
      return 0;
    }
  }

  /** A script takes what is on stdout: all else goes to stderr. */
  private int ensure(CommandOptions options) {
    Ensure.Result result;
    try (Progress progress = progress()) {
      result = Ensure.of(options, progress);
    }
    result.report().ifPresent(report -> err.println(Summary.of(report)));
    result.notes().forEach(note -> err.println("reshard: " + note));
    out.println(result.directory());
    return 0;
  }

  private int inspect(CommandOptions options) {
    Optional<ForeignInspection> foreign = ForeignInspection.of(options);
    if (foreign.isPresent()) {
      out.println(options.getJson() ? foreign.get().json() : Tables.of(foreign.get()));
      return 0;
    }
    Inspection inspection = Inspection.of(options);
    out.println(options.getJson() ? inspection.json() : Tables.of(inspection));
    if (options.getHtml() != null) {
      Path page = Path.of(options.getHtml());
      try {
        Files.writeString(page, inspection.html());
      } catch (IOException e) {
        throw new OutputException(page.toString(), "cannot be written: " + IoReason.of(e), e);
      }
    }
    return 0;
  }

  private int verify(CommandOptions options) {
    VerifyReport report;
    try (Progress progress = progress()) {
      report = VerifyPipeline.run(options, progress);
    }
    out.println(options.getJson() ? report.json() : Tables.of(report));
    return report.equal() ? 0 : Failure.DIFFERENT;
  }

  private int cleanup(CommandOptions options) throws IOException {
    out.println(
        Tables.removed(options.getOutput(), Stores.removeLeftovers(options.getOutput(), options)));
    return 0;
  }

  private int plan(CommandOptions options) {
    PlanReport.all(options).forEach(plan -> out.println(Tables.of(plan)));
    return 0;
  }
}
