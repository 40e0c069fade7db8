package io.github.reshard.pipeline;

import java.util.Map;

/** What the user types to start this program: help and messages show it. */
public final class CommandName {
  /** Set by an installed launcher; the one of a clone leaves it out. */
  private static final String VARIABLE = "RESHARD_COMMAND";

  /** As it is typed in a clone. */
  public static final String IN_A_CLONE = "scripts/reshard";

  private CommandName() {}

  /** What this process was started by. */
  public static String typed() {
    return typed(System.getenv());
  }

  /** What {@code environment} says. */
  public static String typed(Map<String, String> environment) {
    String name = environment.getOrDefault(VARIABLE, "");
    return name.isBlank() ? IN_A_CLONE : name;
  }
}
