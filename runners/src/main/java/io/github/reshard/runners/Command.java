package io.github.reshard.runners;

import io.github.reshard.pipeline.CommandName;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Stream;

/** What can be asked for; the first word of a command line, {@link #RESHARD} when there is none. */
@SuppressWarnings("ImmutableEnumChecker") // made by List.of and Set.of
enum Command {
  RESHARD(
      HelpText.TEXT,
      List.of("input", "output", "targetWorldSize"),
      Set.of(
          "gpus",
          "json",
          "tag",
          "targetStage",
          "shards",
          "model",
          "dsConfig",
          "paramGroups",
          "sanitize",
          "overwrite",
          "trustMasters",
          "partBytes")),
  INSPECT(
      HelpText.INSPECT, List.of("input"), Set.of("tag", "targetWorldSize", "gpus", "json", "html")),
  DOCTOR(
      HelpText.DOCTOR,
      List.of("input"),
      Set.of(
          "tag",
          "shards",
          "model",
          "dsConfig",
          "paramGroups",
          "trustMasters",
          "partBytes",
          "json")),
  ENSURE(
      HelpText.ENSURE,
      List.of("input", "targetWorldSize"),
      Set.of(
          "gpus",
          "output",
          "keep",
          "tag",
          "shards",
          "model",
          "dsConfig",
          "paramGroups",
          "trustMasters",
          "partBytes")),
  VERIFY(
      HelpText.VERIFY, List.of("input", "output"), Set.of("tag", "outputTag", "partBytes", "json")),
  PLAN(
      HelpText.PLAN,
      List.of("input", "targetWorldSize"),
      Set.of(
          "output",
          "gpus",
          "tag",
          "targetStage",
          "shards",
          "model",
          "dsConfig",
          "paramGroups",
          "sanitize",
          "overwrite",
          "trustMasters",
          "partBytes")),
  CLEANUP(HelpText.CLEANUP, List.of("output"), Set.of());

  private static final String DEBUG = "debug";
  private static final String RANKS = "targetWorldSize";
  private static final String GPUS = "gpus";

  private final String help;
  private final List<String> required;
  private final Set<String> optional;

  Command(String help, List<String> required, Set<String> optional) {
    this.help = help;
    this.required = required;
    this.optional = optional;
  }

  /** As the user types it. */
  String word() {
    return name().toLowerCase(Locale.ROOT);
  }

  static List<String> words() {
    return Arrays.stream(values()).map(Command::word).toList();
  }

  /** The command that {@code word} names. */
  static Command of(String word) {
    return valueOf(word.toUpperCase(Locale.ROOT));
  }

  /** The command whose help these arguments ask for. */
  static Command helpedIn(String... args) {
    return args.length > 0 && words().contains(args[0]) ? of(args[0]) : RESHARD;
  }

  /**
   * @param typed what the user types to start this program
   */
  String help(String typed) {
    return help.replace(CommandName.IN_A_CLONE, typed);
  }

  /** The options that are this command's own. */
  Set<String> options() {
    Set<String> all = new TreeSet<>(optional);
    all.addAll(required);
    return all;
  }

  /** Whether {@code option} is one of this command's, or one that all take. */
  boolean takes(String option) {
    return required.contains(option)
        || optional.contains(option)
        || option.equals(DEBUG)
        || option.equals("help")
        || option.equals("runner");
  }

  /** The options that arguments without a name are for, in order. */
  List<String> positions() {
    return Stream.of("input", "output")
        .filter(option -> required.contains(option) || optional.contains(option))
        .toList();
  }

  /**
   * @throws UsageException if an option of this program is missing, or is another command's
   */
  void require(CommandLine line, KnownOptions known) {
    if (line.has(RANKS) && line.has(GPUS)) {
      throw new UsageException("--targetWorldSize and --gpus say the same; give one of them");
    }
    for (String option : required) {
      if (!line.has(option) && !(option.equals(RANKS) && line.has(GPUS))) {
        String command = this == RESHARD ? "" : word() + " ";
        throw new UsageException(
            "--" + option + " is missing; " + command + "--help shows an example");
      }
    }
    for (String option : line.options().keySet()) {
      boolean mine = required.contains(option) || optional.contains(option) || option.equals(DEBUG);
      if (known.own().containsKey(option) && !mine) {
        throw new UsageException("--" + option + " is not an option of " + word());
      }
    }
  }
}
