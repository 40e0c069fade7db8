package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.RefusedException;
import java.nio.charset.StandardCharsets;

/**
 * The names in a Universal Checkpoint (DeepSpeed 0.19.8, checkpoint/ds_to_universal.py): {@code
 * TAG/zero/optimizer_state.pt}, and for each parameter a folder of its name with a file for each
 * state.
 */
public final class UniversalFiles {
  /** In a tag: a directory for each parameter. */
  public static final String FOLDER = "zero";

  static final String OPTIMIZER = "optimizer_state.pt";
  static final String SUFFIX = ".pt";

  /** The state that is no tensor of the parameter's shape. */
  public static final String STEP = "step";

  private static final String ENDING = "_universal";
  private static final int LONGEST_NAME_BYTES = 255;

  private UniversalFiles() {}

  /** The tag that gets the Universal Checkpoint of {@code tag}. */
  public static String tag(String tag) {
    return nativeTag(tag) + ENDING;
  }

  /** The tag that gets the native files of the Universal Checkpoint {@code tag}. */
  public static String nativeTag(String tag) {
    return tag.endsWith(ENDING) && tag.length() > ENDING.length()
        ? tag.substring(0, tag.length() - ENDING.length())
        : tag;
  }

  /** What all parameters share. */
  public static String optimizer(String tag) {
    return tag + "/" + FOLDER + "/" + OPTIMIZER;
  }

  /**
   * The file of one state of one parameter.
   *
   * @throws RefusedException if no file can have such a name
   */
  public static String ofState(String tag, String parameter, String state) {
    requireName(tag, "the parameter", parameter);
    requireName(tag, "the state", state);
    requireName(tag, "the state", state + SUFFIX);
    return tag + "/" + FOLDER + "/" + parameter + "/" + state + SUFFIX;
  }

  /** Names come from a file, and become a path. */
  private static void requireName(String tag, String what, String name) {
    if (name.isEmpty()
        || name.equals(".")
        || name.equals("..")
        || name.equals(OPTIMIZER)
        || name.indexOf('/') >= 0
        || name.indexOf('\\') >= 0
        || name.chars().anyMatch(c -> c < ' ')
        || name.getBytes(StandardCharsets.UTF_8).length > LONGEST_NAME_BYTES) {
      throw new RefusedException(
          tag,
          "%s '%s' gets a file or folder of its name in a Universal Checkpoint, and no file can have that name."
              .formatted(what, name));
    }
  }
}
