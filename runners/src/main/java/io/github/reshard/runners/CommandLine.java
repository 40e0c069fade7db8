package io.github.reshard.runners;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * A command line, understood but not yet acted on.
 *
 * @param command what to do: one of {@link #COMMANDS}
 * @param options option values by name, in the order given; for a name that is given several times
 *     all values, as Beam's list options allow
 */
record CommandLine(String command, Map<String, List<String>> options) {
  /** The commands that there are. */
  static final List<String> COMMANDS = Command.words();

  /** Whether the user asks for help and nothing else matters; needs no Beam. */
  static boolean asksForHelp(String... args) {
    return List.of(args).stream()
            .anyMatch(arg -> arg.equals("--help") || arg.equals("-h") || arg.equals("--help=true"))
        || (args.length == 1 && args[0].equals("help"));
  }

  /** Whether the user asks which version this is. */
  static boolean asksForVersion(String... args) {
    return args.length == 1 && (args[0].equals("--version") || args[0].equals("version"));
  }

  /** Whether {@code --debug} is on; must be known before the first logger is made. */
  static boolean asksForDebug(String... args) {
    List<String> list = List.of(args);
    int bare = list.indexOf("--debug");
    boolean off = bare >= 0 && bare + 1 < list.size() && list.get(bare + 1).equals("false");
    return list.contains("--debug=true") || (bare >= 0 && !off);
  }

  /** Whether it takes no more than this program's own options, for the DirectRunner and files. */
  static boolean hasOwnAlone(String... args) {
    for (String arg : args) {
      int equals = arg.indexOf('=');
      String name =
          arg.startsWith("--") ? arg.substring(2, equals < 0 ? arg.length() : equals) : null;
      boolean foreign =
          name != null && (name.equals(Options.RUNNER_NAME) || Options.named(name).isEmpty());
      if (foreign || arg.contains("://")) {
        return false;
      }
    }
    return true;
  }

  /**
   * Understands {@code --name=value}, {@code --name value} and, for yes/no options, {@code --name}.
   *
   * @throws UsageException for an unknown command or option, and for a value that is missing or
   *     cannot be
   */
  static CommandLine parse(KnownOptions known, String... args) {
    int next = 0;
    String command = Command.RESHARD.word();
    if (args.length > 0 && COMMANDS.contains(args[0])) {
      command = args[0];
      next = 1;
    } else if (args.length > 0 && !args[0].startsWith("-")) {
      requirePath(args);
    }
    Deque<String> positions = new ArrayDeque<>(Command.of(command).positions());
    Map<String, List<String>> options = new LinkedHashMap<>();
    while (next < args.length) {
      String arg = args[next++];
      if (!arg.startsWith("-") && !arg.isBlank() && !positions.isEmpty()) {
        arg = "--" + positions.removeFirst() + "=" + arg;
      }
      if (!arg.startsWith("--") || arg.length() == 2) {
        throw new UsageException("unexpected argument '" + arg + "'; options start with --");
      }
      int equals = arg.indexOf('=');
      String name = equals < 0 ? arg.substring(2) : arg.substring(2, equals);
      if (!known.contains(name)) {
        throw new UsageException(
            "unknown option --"
                + name
                + known
                    .nearest(name)
                    .map(near -> "; did you mean --" + near + "?")
                    .orElse("; --help lists the options"));
      }
      String value;
      if (equals >= 0) {
        value = arg.substring(equals + 1);
      } else if (known.isFlag(name)) {
        boolean given = next < args.length && Option.isTruth(args[next]);
        value = given ? args[next++] : "true";
      } else if (next < args.length && !args[next].startsWith("--")) {
        value = args[next++];
      } else {
        throw new UsageException("--" + name + " needs a value: --" + name + "=...");
      }
      Optional<Option> own = Options.named(name);
      if (own.isPresent()) {
        value = own.get().checked(value);
        if (options.containsKey(name)) {
          throw new UsageException("--" + name + " is given twice");
        }
      }
      options.computeIfAbsent(name, n -> new ArrayList<>()).add(value);
    }
    return new CommandLine(command, options);
  }

  /**
   * Tells {@code reshard CKPT OUT} from a command that is misspelt: the first word of it is a path
   * or is followed by one more, and is not nearly a command.
   */
  private static void requirePath(String... args) {
    String first = args[0];
    Optional<String> near = Spelling.nearest(first, COMMANDS);
    boolean path = first.contains("/") || Files.exists(Path.of(first));
    boolean followed = args.length > 1 && !args[1].startsWith("-");
    if (!path && (near.isPresent() || !followed)) {
      throw new UsageException(
          "unknown command "
              + first
              + near.map(word -> "; did you mean " + word + "?")
                  .orElse("; --help lists what there is"));
    }
  }

  boolean has(String name) {
    return options.containsKey(name);
  }

  boolean has(String name, String value) {
    return has(name) && options.get(name).contains(value);
  }

  /** The options as Beam wants them: {@code --name=value}. */
  String[] beamArgs() {
    return options.entrySet().stream()
        .flatMap(option -> option.getValue().stream().map(v -> beamArg(option.getKey(), v)))
        .toArray(String[]::new);
  }

  /** Several sizes are another option of the pipeline than one. */
  private static String beamArg(String name, String value) {
    boolean several = name.equals(Options.RANKS) && value.contains(",");
    return "--" + name + (several ? "s" : "") + "=" + value;
  }

  /** This command line, with {@code value} for an option that is not given. */
  CommandLine orElse(String name, String value) {
    if (has(name)) {
      return this;
    }
    Map<String, List<String>> more = new LinkedHashMap<>(options);
    more.put(name, List.of(value));
    return new CommandLine(command, more);
  }
}
