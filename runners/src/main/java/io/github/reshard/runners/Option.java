package io.github.reshard.runners;

import java.util.ArrayList;
import java.util.Collections;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * One of this program's options.
 *
 * @param name without dashes
 * @param kind what its value is
 * @param value what stands for its value in help, such as {@code DIR}; empty for yes/no options
 * @param group where the main job's help lists it
 * @param uses what it is for, by the commands that take it
 */
record Option(String name, Kind kind, String value, Group group, Map<Command, Use> uses) {
  private static final String IDLE = "idle:";
  private static final Pattern TIME = Pattern.compile("(\\d{1,9})(ms|s|m|h)");
  private static final Pattern SIZE = Pattern.compile("(\\d+)([KMGT]i?B?)?");

  Option {
    uses = Collections.unmodifiableMap(uses);
  }

  /**
   * What an option is for in a command.
   *
   * @param required whether the command needs it
   * @param text with its default
   */
  record Use(boolean required, String text) {}

  /** What a value may be. */
  enum Kind {
    FLAG,
    TEXT,
    DIRECTORY,
    FILE,
    RUNNER,
    /** A whole number from 1 on. */
    COUNT,
    /** A whole number from 0 on. */
    NUMBER,
    STAGE,
    /** Of the output: {@code native}, {@code universal} or {@code dcp}. */
    FORMAT,
    /** Of a distributed checkpoint. */
    DIALECT,
    /** An element type, or that of the input. */
    DTYPE,
    BYTES,
    /** A time, such as 60s. */
    SECONDS,
    /** A time in milliseconds, such as 500ms or 10m. */
    MILLIS,
    /** When to end: {@code idle:TIME}. */
    UNTIL,
    /** One or more whole numbers from 1 on, separated by commas. */
    COUNTS
  }

  /** The parts of the main job's help. */
  enum Group {
    WHAT("What to reshard", ""),
    SHARDS(
        "Shards that you saved yourself: torch.save(optimizer.state_dict(), ...) on every rank",
        "A directory of files such as optimizer.00.pt needs nothing more than --input; the output"
            + " holds the same names for M ranks. docs/user-shards.md is the guide."),
    WEIGHTS("Which weights, and how", ""),
    CARE("How careful to be", ""),
    RUN("How to run", "");

    private final String title;
    private final String text;

    Group(String title, String text) {
      this.title = title;
      this.text = text;
    }

    String title() {
      return title;
    }

    /** What is said before the options, or nothing. */
    String text() {
      return text;
    }
  }

  static Option of(String name, Kind kind, String value, Group group) {
    return new Option(name, kind, value, group, Map.of());
  }

  /** This option, which {@code commands} need. */
  Option requiredBy(String text, Command... commands) {
    return with(new Use(true, text + " Required."), commands);
  }

  /** This option, which {@code commands} take. */
  Option takenBy(String text, Command... commands) {
    return with(new Use(false, text), commands);
  }

  private Option with(Use use, Command... commands) {
    Map<Command, Use> more = new EnumMap<>(Command.class);
    more.putAll(uses);
    for (Command command : commands) {
      more.put(command, use);
    }
    return new Option(name, kind, value, group, more);
  }

  boolean isTakenBy(Command command) {
    return uses.containsKey(command);
  }

  boolean isRequiredBy(Command command) {
    return isTakenBy(command) && uses.get(command).required();
  }

  /** As it is typed before its value. */
  String typed() {
    return "--" + name + (value.isEmpty() ? "" : "=");
  }

  /**
   * The value as Beam takes it.
   *
   * @throws UsageException if it cannot be one
   */
  String checked(String given) {
    if (given.isBlank()) {
      throw new UsageException("--" + name + " needs a value: --" + name + "=...");
    }
    return switch (kind) {
      case TEXT, DIRECTORY, FILE, RUNNER -> given;
      case FLAG -> {
        if (!isTruth(given)) {
          throw new UsageException("--" + name + " is either true or false, not '" + given + "'");
        }
        yield given;
      }
      case COUNT -> Integer.toString(atLeastOne(number(given)));
      case NUMBER -> {
        int number = number(given);
        if (number < 0) {
          throw new UsageException("--" + name + " is at least 0, not " + number);
        }
        yield Integer.toString(number);
      }
      case STAGE -> {
        int stage = number(given);
        if (stage < 1 || stage > 3) {
          throw new UsageException("--" + name + " is 1, 2 or 3, not " + stage);
        }
        yield Integer.toString(stage);
      }
      case FORMAT, DIALECT, DTYPE -> {
        List<String> words = Options.words(kind);
        if (!words.contains(given)) {
          throw new UsageException(
              "--" + name + " is one of " + String.join(", ", words) + ", not '" + given + "'");
        }
        yield given;
      }
      case BYTES -> Long.toString(atLeastOne(bytes(given)));
      case SECONDS -> Long.toString(millis(given) / 1000);
      case MILLIS -> Long.toString(atLeastOne(millis(given)));
      case UNTIL -> {
        if (!given.startsWith(IDLE)) {
          throw new UsageException(
              "--" + name + " is " + IDLE + "TIME, such as " + IDLE + "10m, not '" + given + "'");
        }
        yield Long.toString(millis(given.substring(IDLE.length())));
      }
      case COUNTS -> counts(given);
    };
  }

  static boolean isTruth(String value) {
    return value.equals("true") || value.equals("false");
  }

  /** Each once: two outputs of one size would be one. */
  private String counts(String given) {
    List<String> counts = new ArrayList<>();
    for (String count : given.split(",", -1)) {
      String number = Integer.toString(atLeastOne(number(count.strip())));
      if (counts.contains(number)) {
        throw new UsageException("--" + name + "=" + given + " names " + number + " twice");
      }
      counts.add(number);
    }
    return String.join(",", counts);
  }

  private long millis(String given) {
    Matcher matcher = TIME.matcher(given);
    if (!matcher.matches()) {
      throw new UsageException("--" + name + " is a time such as 60s or 10m, not '" + given + "'");
    }
    long unit =
        switch (matcher.group(2)) {
          case "ms" -> 1;
          case "s" -> 1_000;
          case "m" -> 60_000;
          default -> 3_600_000;
        };
    return Long.parseLong(matcher.group(1)) * unit;
  }

  private int number(String given) {
    try {
      return Integer.parseInt(given);
    } catch (NumberFormatException e) {
      throw new UsageException("--" + name + " is a whole number, not '" + given + "'", e);
    }
  }

  private <N extends Number> N atLeastOne(N number) {
    if (number.longValue() < 1) {
      throw new UsageException("--" + name + " is at least 1, not " + number);
    }
    return number;
  }

  /**
   * {@code 67108864}, {@code 64MiB}, {@code 64M} and the like; K, M, G and T are powers of 1024.
   */
  private long bytes(String given) {
    Matcher matcher = SIZE.matcher(given);
    if (!matcher.matches()) {
      throw new UsageException(
          "--" + name + " is a number of bytes such as 67108864 or 64MiB, not '" + given + "'");
    }
    String unit = Optional.ofNullable(matcher.group(2)).orElse("");
    int shift = unit.isEmpty() ? 0 : 10 * (1 + "KMGT".indexOf(unit.charAt(0)));
    try {
      return Math.multiplyExact(Long.parseLong(matcher.group(1)), 1L << shift);
    } catch (ArithmeticException | NumberFormatException e) {
      throw new UsageException("--" + name + "=" + given + " is more than a file can hold", e);
    }
  }
}
