package io.github.reshard.runners;

import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The options as the help texts list them: the one table that completion and man page are of. */
final class HelpOptions {
  private static final Pattern OPTION =
      Pattern.compile(" {2}--([a-zA-Z]+)(?:=([A-Z]+))?(?: {2,}(.*))?");
  private static final Pattern MORE = Pattern.compile(" {20,}(.*)");

  private HelpOptions() {}

  /**
   * An option.
   *
   * @param name without dashes
   * @param value what stands for its value, such as {@code DIR}; empty for yes/no options
   * @param text what it is for, with its default
   */
  record Option(String name, String value, String text) {
    /** As it is typed before its value. */
    String typed() {
      return "--" + name + (value.isEmpty() ? "" : "=");
    }

    /** The first sentence, without its full stop. */
    String summary() {
      return firstSentence(text);
    }
  }

  /** The options of {@code command}, in the order of its help. */
  static List<Option> of(Command command) {
    List<Option> options = new ArrayList<>();
    for (Option option : listed(command.help(""))) {
      if (command.takes(option.name())) {
        options.add(option);
      }
    }
    return options;
  }

  /** What {@code command} is for. */
  static String summary(Command command) {
    return firstSentence(command.help("reshard").split("\n\n", 2)[0].replaceAll("\\s+", " "));
  }

  private static List<Option> listed(String help) {
    List<Option> options = new ArrayList<>();
    for (String line : help.lines().toList()) {
      Matcher option = OPTION.matcher(line);
      Matcher more = MORE.matcher(line);
      if (option.matches()) {
        String text = option.group(3) == null ? "" : option.group(3);
        options.add(
            new Option(
                option.group(1), option.group(2) == null ? "" : option.group(2), text.strip()));
      } else if (more.matches() && !options.isEmpty()) {
        Option last = options.remove(options.size() - 1);
        options.add(
            new Option(last.name(), last.value(), (last.text() + " " + more.group(1)).strip()));
      }
    }
    return options;
  }

  private static String firstSentence(String text) {
    int end = text.indexOf(". ");
    String sentence = end < 0 ? text : text.substring(0, end);
    return sentence.endsWith(".") ? sentence.substring(0, sentence.length() - 1) : sentence;
  }
}
