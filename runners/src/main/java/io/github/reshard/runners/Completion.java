package io.github.reshard.runners;

import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** What {@code completion} and {@code man} print. */
final class Completion {
  static final String WORD = "completion";
  static final String MAN = "man";

  /** Values that are few. */
  private static final SortedMap<String, String> WORDS =
      new TreeMap<>(Map.of("RUNNER", "DirectRunner FlinkRunner DataflowRunner", "STAGE", "1 2 3"));

  private Completion() {}

  /**
   * The script for a shell.
   *
   * @throws UsageException if none is named that is known
   */
  static String of(String... args) {
    String shell = args.length == 2 ? args[1] : "";
    return switch (shell) {
      case "bash" -> bash();
      case "zsh" -> zsh();
      default -> throw new UsageException("completion is for bash or zsh: reshard completion bash");
    };
  }

  private static List<String> words() {
    return Stream.concat(Command.words().stream(), Stream.of(WORD, MAN)).toList();
  }

  private static String bash() {
    StringBuilder script =
        new StringBuilder(
            """
            # Completion of reshard for bash: eval "$(reshard completion bash)"
            _reshard() {
              local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} option= words=
              if [ "$cur" = = ]; then
                option=$before cur=
              elif [ "$before" = = ]; then
                option=${COMP_WORDS[COMP_CWORD - 2]}
              else
                option=$before
              fi
              case $option in
            """);
    bashValues("DIR", "compgen -d -- \"$cur\"", script);
    bashValues("FILE", "compgen -f -- \"$cur\"", script);
    WORDS.forEach(
        (value, words) -> bashValues(value, "compgen -W '" + words + "' -- \"$cur\"", script));
    script.append("    completion) words='bash zsh' ;;\n  esac\n");
    script.append("  if [ -z \"$words\" ]; then\n    case ${COMP_WORDS[1]} in\n");
    for (Command command : Command.values()) {
      if (command != Command.RESHARD) {
        script.append("      ").append(command.word()).append(") words='");
        script.append(typed(command)).append("' ;;\n");
      }
    }
    script
        .append("      *) words='")
        .append(typed(Command.RESHARD))
        .append("' ;;\n    esac\n  fi\n");
    script.append("  if [ \"$COMP_CWORD\" = 1 ]; then words=\"$words ");
    script.append(String.join(" ", words())).append(" --version\"; fi\n");
    script.append(
        """
          mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
          if [[ $cur != -* ]]; then
            mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -d -- "$cur")
            compopt -o filenames
          elif [[ ${COMPREPLY[0]-} == *= ]]; then
            compopt -o nospace
          fi
        }
        complete -F _reshard reshard
        """);
    return script.toString();
  }

  private static String typed(Command command) {
    return HelpOptions.of(command).stream()
        .map(HelpOptions.Option::typed)
        .collect(Collectors.joining(" "));
  }

  private static void bashValues(String value, String found, StringBuilder script) {
    String names =
        Stream.of(Command.values())
            .flatMap(command -> HelpOptions.of(command).stream())
            .filter(option -> option.value().equals(value))
            .map(option -> "--" + option.name())
            .distinct()
            .sorted()
            .collect(Collectors.joining(" | "));
    script.append("    ").append(names).append(")\n");
    script.append("      mapfile -t COMPREPLY < <(").append(found).append(")\n");
    script.append("      compopt -o filenames\n      return\n      ;;\n");
  }

  private static String zsh() {
    StringBuilder script = new StringBuilder("#compdef reshard\n_reshard() {\n");
    script.append("  local -a commands\n  commands=(\n");
    for (Command command : Command.values()) {
      script.append("    ").append(quoted(command.word() + ":" + HelpOptions.summary(command)));
      script.append('\n');
    }
    script.append("  )\n  if (( CURRENT == 2 )); then _describe command commands; fi\n");
    script.append("  case ${words[2]} in\n");
    for (Command command : Command.values()) {
      if (command != Command.RESHARD) {
        script.append("    ").append(command.word()).append(") _arguments");
        zshOptions(command, script);
        script.append(" ;;\n");
      }
    }
    script.append("    completion) _arguments '2:shell:(bash zsh)' ;;\n    *) _arguments");
    zshOptions(Command.RESHARD, script);
    script.append(" ;;\n  esac\n}\ncompdef _reshard reshard\n");
    return script.toString();
  }

  private static void zshOptions(Command command, StringBuilder script) {
    for (HelpOptions.Option option : HelpOptions.of(command)) {
      String text = option.summary().replace("[", "(").replace("]", ")").replace(":", "\\:");
      String spec = option.typed() + "[" + text + "]";
      if (!option.value().isEmpty()) {
        String action =
            switch (option.value()) {
              case "DIR" -> "_files -/";
              case "FILE" -> "_files";
              default -> {
                String words = WORDS.get(option.value());
                yield words == null ? " " : "(" + words + ")";
              }
            };
        spec += ":" + option.value() + ":" + action;
      }
      script.append(" \\\n      ").append(quoted(spec));
    }
    script.append(" \\\n      '*: :_files -/'");
  }

  private static String quoted(String text) {
    return "'" + text.replace("'", "'\\''") + "'";
  }

  /** The page in roff. */
  static String man(String version) {
    StringBuilder page = new StringBuilder(".TH RESHARD 1 \"\" \"reshard " + version + "\"\n");
    page.append(".SH NAME\nreshard \\- takes a DeepSpeed checkpoint from N ranks to M ranks\n");
    page.append(".SH SYNOPSIS\n");
    for (Command command : Command.values()) {
      page.append(".br\n.B reshard");
      page.append(command == Command.RESHARD ? "" : " " + command.word());
      page.append("\n[OPTION]...\n");
    }
    for (Command command : Command.values()) {
      String help = command.help("reshard");
      page.append(".SH ").append(command.word().toUpperCase(Locale.ROOT)).append('\n');
      page.append(roff(help.split("\n\n", 2)[0])).append('\n');
      for (HelpOptions.Option option : HelpOptions.of(command)) {
        page.append(".TP\n.B ").append(roff(option.typed() + option.value())).append('\n');
        page.append(roff(option.text())).append('\n');
      }
    }
    String codes = Command.RESHARD.help("reshard");
    page.append(".SH EXIT STATUS\n.nf\n");
    page.append(roff(codes.substring(codes.indexOf("Exit codes\n") + "Exit codes\n".length())));
    return page.append(".fi\n").toString();
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
