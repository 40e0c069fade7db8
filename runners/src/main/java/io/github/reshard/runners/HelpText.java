package io.github.reshard.runners;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;

/** What {@code --help} and {@code man} say, of the main job and of each command. */
final class HelpText {
  private static final int COLUMNS = 96;
  private static final int TEXT_COLUMN = 25;

  private static final String USAGE =
      "Any option of Beam or of the chosen runner works too, such as --targetParallelism=8. Options are written --name=value or --name value; yes/no options may stand alone. The names --input and --output may be left out: %s ckpt out --targetWorldSize=2.";

  private static final String ENVIRONMENT =
      """

      Environment
        RESHARD_PROGRESS       With json, progress is told in JSON, one object a line, on stderr.
        RESHARD_JAVA_OPTS      Options for the Java machine, such as -Xmx1g; they win over the
                               ones that are picked for it.
      """;

  private static final String EXIT_CODES =
      """
        0  done
        1  something that should not happen; --debug shows where
        2  wrong usage
        3  the input was refused: missing, damaged, inconsistent or not supported
        4  the output cannot be written, or another run is writing to it
        5  verify: the two checkpoints differ
      """;

  private HelpText() {}

  /**
   * What {@code --help} says of a command.
   *
   * @param program what the user types to start this program
   */
  static String of(Command command, String program) {
    StringBuilder help = new StringBuilder(filled("", command.text()));
    help.append(command.examples().size() == 1 ? "\nExample\n" : "\nExamples\n");
    for (String example : command.examples()) {
      help.append("  ").append(program).append(' ').append(command.typed());
      help.append(example).append('\n');
    }
    if (command != Command.RESHARD) {
      help.append('\n');
      Options.of(command).forEach(option -> help.append(entry(option, command)));
      return help.toString();
    }
    for (Option.Group group : Option.Group.values()) {
      help.append('\n').append(group.title()).append('\n');
      help.append(filled("  ", group.text()));
      for (Option option : Options.of(command)) {
        if (option.group() == group) {
          help.append(entry(option, command));
        }
      }
    }
    help.append(filled("  ", USAGE.formatted(program)));
    help.append(otherCommands(program));
    return help.append(ENVIRONMENT).append("\nExit codes\n").append(EXIT_CODES).toString();
  }

  private static String otherCommands(String program) {
    StringBuilder help = new StringBuilder("\nOther commands; COMMAND --help says more\n");
    for (Command command : Command.values()) {
      if (command != Command.RESHARD) {
        help.append(example(program, command.typed() + command.examples().get(0)));
        help.append(command.question()).append('\n');
      }
    }
    help.append(example(program, "completion bash")).append("Or zsh: completion for the shell\n");
    help.append(example(program, "man")).append("The man page\n");
    help.append(example(program, "--version")).append("This program, Beam and Java\n");
    for (Option option : Options.all()) {
      if (!option.isTakenBy(Command.RESHARD)) {
        option
            .uses()
            .forEach((taken, use) -> help.append(entry(option, taken.word() + ": " + use.text())));
      }
    }
    return help.toString();
  }

  private static String example(String program, String args) {
    String line = "  " + program + " " + args;
    return line + (line.length() < 58 ? " ".repeat(58 - line.length()) : "\n" + " ".repeat(58));
  }

  /** An option and its text, in two columns. */
  private static String entry(Option option, Command command) {
    return entry(option, option.uses().get(command).text());
  }

  private static String entry(Option option, String text) {
    String name = "  " + option.typed() + option.value();
    return name + filled(" ".repeat(TEXT_COLUMN), text).substring(name.length());
  }

  /** {@code text} in lines that begin with {@code indent} and fit a terminal. */
  private static String filled(String indent, String text) {
    List<String> lines = new ArrayList<>();
    StringBuilder line = new StringBuilder(indent);
    for (String word : text.isEmpty() ? new String[0] : text.split(" ")) {
      boolean first = line.length() == indent.length();
      if (!first && line.length() + 1 + word.length() > COLUMNS) {
        lines.add(line.toString());
        line = new StringBuilder(indent);
        first = true;
      }
      line.append(first ? "" : " ").append(word);
    }
    if (line.length() > indent.length()) {
      lines.add(line.toString());
    }
    return lines.stream().map(each -> each + "\n").collect(Collectors.joining());
  }

  /** The man page, in roff. */
  static String man(String version) {
    StringBuilder page = new StringBuilder(".TH RESHARD 1 \"\" \"reshard " + version + "\"\n");
    page.append(".SH NAME\nreshard \\- takes a DeepSpeed checkpoint from N ranks to M ranks\n");
    page.append(".SH SYNOPSIS\n");
    for (Command command : Command.values()) {
      page.append(".br\n.B reshard ").append(command.typed().strip()).append("\n[OPTION]...\n");
    }
    for (Command command : Command.values()) {
      page.append(".SH ").append(command.word().toUpperCase(Locale.ROOT)).append('\n');
      page.append(roff(command.text())).append('\n');
      for (Option option : Options.of(command)) {
        page.append(".TP\n.B ").append(roff(option.typed() + option.value())).append('\n');
        page.append(roff(option.uses().get(command).text())).append('\n');
      }
    }
    return page.append(".SH EXIT STATUS\n.nf\n")
        .append(roff(EXIT_CODES))
        .append(".fi\n")
        .toString();
  }

  /** A line that begins with a dot or an apostrophe would be a request. */
  private static String roff(String text) {
    return text.replace("\\", "\\e")
        .replace("-", "\\-")
        .lines()
        .map(line -> line.startsWith(".") || line.startsWith("'") ? "\\&" + line : line)
        .collect(Collectors.joining("\n", "", text.endsWith("\n") ? "\n" : ""));
  }
}
