package io.github.reshard.runners;

import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** What {@code completion} prints. */
final class Completion {
  static final String WORD = "completion";
  static final String MAN = "man";

  /** Values that are few. */
  private static final SortedMap<Option.Kind, String> WORDS =
      new TreeMap<>(
          Map.of(
              Option.Kind.RUNNER,
              "DirectRunner FlinkRunner DataflowRunner",
              Option.Kind.STAGE,
              "1 2 3",
              Option.Kind.FORMAT,
              String.join(" ", Options.words(Option.Kind.FORMAT)),
              Option.Kind.DIALECT,
              String.join(" ", Options.words(Option.Kind.DIALECT)),
              Option.Kind.DTYPE,
              String.join(" ", Options.words(Option.Kind.DTYPE))));

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
    bashValues(Option.Kind.DIRECTORY, "compgen -d -- \"$cur\"", script);
    bashValues(Option.Kind.FILE, "compgen -f -- \"$cur\"", script);
    WORDS.forEach(
        (kind, words) -> bashValues(kind, "compgen -W '" + words + "' -- \"$cur\"", script));
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
    return Options.of(command).stream().map(Option::typed).collect(Collectors.joining(" "));
  }

  private static void bashValues(Option.Kind kind, String found, StringBuilder script) {
    String names =
        Options.all().stream()
            .filter(option -> option.kind() == kind)
            .map(option -> "--" + option.name())
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
      script.append("    ").append(quoted(command.word() + ":" + firstSentence(command.text())));
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
    for (Option option : Options.of(command)) {
      String text = firstSentence(option.uses().get(command).text());
      text = text.replace("[", "(").replace("]", ")").replace(":", "\\:");
      String spec = option.typed() + "[" + text + "]";
      if (!option.value().isEmpty()) {
        String action =
            switch (option.kind()) {
              case DIRECTORY -> "_files -/";
              case FILE -> "_files";
              case RUNNER, STAGE, FORMAT, DIALECT, DTYPE -> "(" + WORDS.get(option.kind()) + ")";
              case FLAG, TEXT, COUNT, COUNTS, NUMBER, BYTES, SECONDS, MILLIS, UNTIL -> " ";
            };
        spec += ":" + option.value() + ":" + action;
      }
      script.append(" \\\n      ").append(quoted(spec));
    }
    script.append(" \\\n      '*: :_files -/'");
  }

  /** Without its full stop. */
  private static String firstSentence(String text) {
    int end = text.indexOf(". ");
    String sentence = end < 0 ? text : text.substring(0, end);
    return sentence.endsWith(".") ? sentence.substring(0, sentence.length() - 1) : sentence;
  }

  private static String quoted(String text) {
    return "'" + text.replace("'", "'\\''") + "'";
  }
}
