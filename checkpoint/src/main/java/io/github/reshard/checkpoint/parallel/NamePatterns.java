package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;

/**
 * Regular expressions of Python over the names of parameters. As in {@code re.match}, one has to
 * match from the beginning of a name, and need not reach its end.
 *
 * @param listed each pattern, in order
 */
record NamePatterns(List<NamePattern> listed) {
  /** The longest pattern that is looked at; names of parameters are shorter. */
  private static final int LONGEST = 2000;

  /**
   * One of them.
   *
   * @param from where it stands
   * @param text the pattern itself
   */
  record NamePattern(PickledValue from, String text, Pattern compiled) {
    boolean matches(String name) {
      return compiled.matcher(name).lookingAt();
    }
  }

  NamePatterns {
    listed = List.copyOf(listed);
  }

  /** Those of the list {@code key}; none if it is not there. */
  static NamePatterns of(PickledValue info, String key) {
    return info.findPresent(key).map(NamePatterns::of).orElse(new NamePatterns(List.of()));
  }

  /** Those of a list. */
  static NamePatterns of(PickledValue list) {
    List<NamePattern> all = new ArrayList<>();
    for (PickledValue pattern : list.items()) {
      all.add(compile(pattern, pattern.asString()));
    }
    return new NamePatterns(all);
  }

  /**
   * Compiles a pattern.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if it means something else in Java, or
   *     nothing
   */
  static NamePattern compile(PickledValue from, String text) {
    if (text.length() > LONGEST) {
      throw from.refused("a pattern of %d characters".formatted(text.length()));
    }
    if (text.contains("(?P") || text.contains("\\Z")) {
      throw from.refused(
          "the pattern %s has (?P or \\Z, which are Python's alone and not understood."
              .formatted(text));
    }
    try {
      return new NamePattern(from, text, Pattern.compile(text));
    } catch (PatternSyntaxException e) {
      throw from.refused("%s is no pattern: %s.".formatted(text, e.getDescription()));
    }
  }

  /** The first one that matches {@code name}. */
  Optional<NamePattern> match(String name) {
    return listed.stream().filter(pattern -> pattern.matches(name)).findFirst();
  }
}
