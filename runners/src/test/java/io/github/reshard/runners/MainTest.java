package io.github.reshard.runners;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.pipeline.CommandOptions;
import io.github.reshard.pipeline.ExportOptions;
import io.github.reshard.pipeline.ReshardOptions;
import java.beans.Introspector;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.lang.reflect.Method;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.beam.runners.direct.DirectOptions;
import org.apache.beam.runners.flink.FlinkPipelineOptions;
import org.apache.beam.runners.flink.FlinkRunner;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

class MainTest {
  private static final String[] COMPLETE = {"--input=in", "--output=out", "--targetWorldSize=2"};
  private static final String HELP = HelpText.of(Command.RESHARD, "scripts/reshard");

  private final ByteArrayOutputStream out = new ByteArrayOutputStream();
  private final ByteArrayOutputStream err = new ByteArrayOutputStream();

  private Main main(String defaultRunner) {
    return new Main(
        new PrintStream(out, true, StandardCharsets.UTF_8),
        new PrintStream(err, true, StandardCharsets.UTF_8),
        Map.of(),
        defaultRunner);
  }

  private static String[] completeWith(String... more) {
    String[] args = new String[COMPLETE.length + more.length];
    System.arraycopy(COMPLETE, 0, args, 0, COMPLETE.length);
    System.arraycopy(more, 0, args, COMPLETE.length, more.length);
    return args;
  }

  @ParameterizedTest
  @CsvSource({
    "'', --input is missing; --help shows an example",
    "--input=in, --output is missing; --help shows an example",
    "--input=in --output=out, --targetWorldSize or --gpus is missing; --help shows an example",
    "--input=in --output=out --targetWorldSize=0, '--targetWorldSize is at least 1, not 0'",
    "--input=in --output=out --gpus=0, '--gpus is at least 1, not 0'",
    "--input=in --output=out --gpus=2 --targetWorldSize=2, "
        + "'--targetWorldSize and --gpus say the same; give one of them'",
    "--input=in --output=out --targetWorldSize=1 --targetStage=0, "
        + "'--targetStage is 1, 2 or 3, not 0'",
    "--input=in --output=out --targetWorldSize=1 --partBytes=0, "
        + "'--partBytes is at least 1, not 0'",
    "--targetWorldsize=2, unknown option --targetWorldsize; did you mean --targetWorldSize?"
  })
  void wrongUsageIsOneLineAndExitsWith2(String args, String message) {
    int code = main("").run(args.isEmpty() ? new String[0] : args.split(" "));

    assertThat(code).isEqualTo(2);
    assertThat(err.toString(StandardCharsets.UTF_8).lines()).containsExactly("reshard: " + message);
    assertThat(out.toString(StandardCharsets.UTF_8)).isEmpty();
  }

  @Test
  void whatBeamRefusesIsOneLineThatNamesTheOption() {
    int code = main("").run(completeWith("--targetParallelism=many"));

    assertThat(code).isEqualTo(2);
    assertThat(err.toString(StandardCharsets.UTF_8).lines())
        .singleElement()
        .asString()
        .startsWith("reshard: --targetParallelism=many: ");
  }

  @Test
  void debugShowsWhere() {
    main("").run("--debug", "--input=in");

    assertThat(err.toString(StandardCharsets.UTF_8))
        .contains("reshard: --output is missing", "\tat io.github.reshard.runners.Main.options");
  }

  @Test
  void helpGoesToStdoutAndExitsWith0() {
    assertThat(main("").run("--help")).isEqualTo(0);
    assertThat(out.toString(StandardCharsets.UTF_8)).isEqualTo(HELP);
    assertThat(err.toString(StandardCharsets.UTF_8)).isEmpty();
  }

  @Test
  void helpShowsTheCommandAsItWasTyped() {
    new Main(
            new PrintStream(out, true, StandardCharsets.UTF_8),
            new PrintStream(err, true, StandardCharsets.UTF_8),
            Map.of("RESHARD_COMMAND", "reshard"),
            "")
        .run("--help");

    assertThat(out.toString(StandardCharsets.UTF_8))
        .contains("\n  reshard --input=ckpt --output=ckpt-on-2 --targetWorldSize=2\n")
        .doesNotContain("scripts/");
  }

  @Test
  void versionSaysProgramBeamAndJava() {
    assertThat(main("").run("--version")).isEqualTo(0);
    assertThat(out.toString(StandardCharsets.UTF_8).lines())
        .satisfiesExactly(
            line -> assertThat(line).matches("reshard \\d+\\.\\d+.*"),
            line -> assertThat(line).matches("Beam 2\\.\\d+\\.\\d+"),
            line -> assertThat(line).matches("Java \\d+.* \\(.+\\)"));
  }

  static Iterable<String> ownOptions() {
    return Options.all().stream().map(Option::name).toList();
  }

  @ParameterizedTest
  @MethodSource("ownOptions")
  void helpExplainsEveryOptionWithItsDefault(String option) {
    String rest = HELP.substring(HELP.indexOf("\n  --" + option));
    String entry = rest.substring(1).split("\n\n|\n  --", 2)[0];

    assertThat(entry).containsAnyOf("Default:", "Required.");
  }

  @ParameterizedTest
  @EnumSource(Command.class)
  void helpFitsATerminalOf100Columns(Command command) {
    assertThat(HelpText.of(command, "scripts/reshard").lines())
        .allSatisfy(line -> assertThat(line).hasSizeLessThan(100));
  }

  @Test
  void theTableOfOptionsIsTheOptionsOfThePipelineAndTheirTypes() {
    Map<String, Class<?>> inTable = new TreeMap<>();
    for (Option option : Options.all()) {
      boolean beams = List.of("runner", "help").contains(option.name());
      if (!beams) {
        inTable.put(option.name(), type(option.kind()));
      }
    }
    Map<String, Class<?>> inPipeline = new TreeMap<>();
    for (Class<?> options :
        List.of(ReshardOptions.class, ExportOptions.class, CommandOptions.class)) {
      for (Method method : options.getDeclaredMethods()) {
        if (method.getName().startsWith("get")) {
          inPipeline.put(
              Introspector.decapitalize(method.getName().substring(3)), method.getReturnType());
        }
      }
    }

    // Several sizes of --targetWorldSize are another option of the pipeline than one.
    assertThat(inPipeline.remove("targetWorldSizes")).isEqualTo(String.class);

    assertThat(inPipeline).isEqualTo(inTable);
  }

  private static Class<?> type(Option.Kind kind) {
    return switch (kind) {
      case FLAG -> boolean.class;
      case COUNT, COUNTS, NUMBER, STAGE -> Integer.class;
      case SECONDS, MILLIS, UNTIL -> Long.class;
      case BYTES -> long.class;
      case TEXT, DIRECTORY, FILE, RUNNER, FORMAT, DIALECT, DTYPE -> String.class;
    };
  }

  /** As in a process of its own, where nothing was registered before. */
  @Test
  void optionsOfBeamAreKnownAfterACommandThatHasNone() {
    BeamRegistry.withoutOthers(PipelineOptionsFactory::resetCache);
    main("").options(COMPLETE);
    assertThat(PipelineOptionsFactory.getRegisteredOptions())
        .contains(CommandOptions.class)
        .doesNotContain(DirectOptions.class);

    DirectOptions options =
        main("").options(completeWith("--targetParallelism=7")).as(DirectOptions.class);
    assertThat(options.getTargetParallelism()).isEqualTo(7);
    assertThat(PipelineOptionsFactory.getRegisteredOptions()).contains(DirectOptions.class);
  }

  @Test
  void theDirectRunnerIsNotSlowedDownByChecksForAuthors() {
    DirectOptions options = main("").options(COMPLETE).as(DirectOptions.class);

    assertThat(options.isEnforceImmutability()).isFalse();
    assertThat(options.isEnforceEncodability()).isFalse();
    assertThat(options.isBlockOnRun()).isFalse();
    assertThat(options.getTargetParallelism())
        .isEqualTo(Runtime.getRuntime().availableProcessors());
  }

  @Test
  void whatTheUserSetsIsKept() {
    DirectOptions options =
        main("")
            .options(completeWith("--enforceImmutability", "--targetParallelism", "7"))
            .as(DirectOptions.class);

    assertThat(options.isEnforceImmutability()).isTrue();
    assertThat(options.getTargetParallelism()).isEqualTo(7);
  }

  @Test
  void theRunnerOfMavensCommandLineIsUsedUnlessAnArgumentNamesOne() {
    assertThat(main("FlinkRunner").options(COMPLETE).getRunner()).isEqualTo(FlinkRunner.class);
    assertThat(
            main("FlinkRunner")
                .options(completeWith("--runner=DirectRunner"))
                .getRunner()
                .getSimpleName())
        .isEqualTo("DirectRunner");
  }

  @Test
  void aFlinkConfigurationOfTheUserIsKept() {
    FlinkPipelineOptions options =
        main("")
            .options(completeWith("--runner=FlinkRunner", "--flinkConfDir=conf"))
            .as(FlinkPipelineOptions.class);

    assertThat(options.getFlinkConfDir()).isEqualTo("conf");
  }

  @Test
  void aFlinkClusterThatDoesNotAnswerIsNamed() throws IOException {
    int port;
    try (ServerSocket free = new ServerSocket(0)) {
      port = free.getLocalPort();
    }

    int code =
        main("").run(completeWith("--runner=FlinkRunner", "--flinkMaster=localhost:" + port));

    assertThat(code).isEqualTo(2);
    assertThat(err.toString(StandardCharsets.UTF_8))
        .startsWith("reshard: no Flink cluster answers at localhost:" + port + ": ");
  }

  @Test
  void theParallelismOfFlinksConfigurationIsKept(@TempDir Path configuration) throws IOException {
    Files.writeString(configuration.resolve("config.yaml"), "parallelism.default: 3\n");

    // Nobody is asked: nothing answers at that address.
    FlinkPipelineOptions options =
        main("")
            .options(
                completeWith(
                    "--runner=FlinkRunner",
                    "--flinkMaster=http://flink.invalid",
                    "--flinkConfDir=" + configuration))
            .as(FlinkPipelineOptions.class);

    assertThat(options.getParallelism()).isEqualTo(-1);
  }

  @Test
  void flinksJobsAreSentWithoutFlink() {
    FlinkPipelineOptions options =
        main("")
            .options(
                completeWith(
                    "--runner=FlinkRunner", "--flinkMaster=flink.invalid:1", "--parallelism=2"))
            .as(FlinkPipelineOptions.class);

    assertThat(options.getParallelism()).isEqualTo(2);
    assertThat(options.getFilesToStage())
        .anyMatch(file -> file.contains("beam-runners-flink-"))
        .noneMatch(file -> file.contains("/flink-runtime-"));
  }

  @Test
  void flinkGetsSmallerPartsUnlessEachIsAnObject() {
    assertThat(flinkInto("out").getPartBytes()).isEqualTo(16L << 20);
    assertThat(flinkInto("gs://bucket/out").getPartBytes()).isEqualTo(64L << 20);
    assertThat(flinkInto("out", "--partBytes=1M").getPartBytes()).isEqualTo(1L << 20);
  }

  private ReshardOptions flinkInto(String output, String... more) {
    List<String> args =
        new ArrayList<>(
            List.of(
                "--input=in", "--output=" + output, "--targetWorldSize=2", "--runner=FlinkRunner"));
    args.addAll(List.of(more));
    return main("").options(args.toArray(new String[0]));
  }

  @Test
  void defaultsAreThoseOfTheHelp() {
    ReshardOptions options = main("").options(COMPLETE);

    assertThat(options.getTargetWorldSize()).isEqualTo(2);
    assertThat(options.getTag()).isNull();
    assertThat(options.getOverwrite()).isFalse();
    assertThat(options.getTrustMasters()).isFalse();
    assertThat(options.getPartBytes()).isEqualTo(64L << 20);
    assertThat(options.getDebug()).isFalse();
  }
}
