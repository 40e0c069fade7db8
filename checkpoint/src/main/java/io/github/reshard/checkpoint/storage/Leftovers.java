package io.github.reshard.checkpoint.storage;

import io.github.reshard.checkpoint.IoReason;
import io.github.reshard.checkpoint.OutputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * What runs that died left in an output, under names that no checkpoint has: {@code
 * .reshard-TAG.unpublished}, {@code .reshard-TAG.replaced}, the markers {@code
 * .reshard-TAG.publishing} and {@code .reshard-TAG.removing}, the lock {@code .reshard-TAG.lock},
 * and a {@link JobDirectory}. Published tags are never looked at.
 */
public final class Leftovers {
  private static final Pattern NAME =
      Pattern.compile(
          "\\.reshard-(?:(.+)\\.(unpublished|replaced|removing|publishing|lock(?:\\..*)?)|follow)");
  private static final String MARKER = "publishing";
  private static final String REMOVING = "removing";
  private static final String LOCK = ".lock";

  /** Stands for the slash of a tag that is a path. */
  private static final String STEP = "%2F";

  private Leftovers() {}

  /**
   * The name of something unpublished beside {@code tag}.
   *
   * @param tag may be a path, whose steps are then joined
   * @param kind {@code unpublished}, {@code replaced}, {@code removing}, {@code publishing} or
   *     {@code lock}
   */
  public static String name(String tag, String kind) {
    return ".reshard-" + tag.replace("/", STEP) + "." + kind;
  }

  /** The tag that is being removed, if {@code name} says that of one. */
  public static Optional<String> removing(String name) {
    Matcher matcher = NAME.matcher(name);
    return matcher.matches() && REMOVING.equals(matcher.group(2))
        ? Optional.of(matcher.group(1).replace(STEP, "/"))
        : Optional.empty();
  }

  /**
   * What was removed.
   *
   * @param where the directory or file
   * @param files how many files were in it
   * @param bytes their bytes
   */
  public record Removed(String where, long files, long bytes) {}

  /** Whether {@code name}, directly in an output, is that of something left over. */
  public static boolean isOne(String name) {
    return NAME.matcher(name).matches();
  }

  /**
   * Checks that nothing is half published: such a tag may be half replaced, and what lies beside it
   * is then the rest.
   *
   * @param output for messages
   * @param names what is left
   * @param latest what the output's {@code latest} and {@code latest_universal} say; the tags that
   *     they name are whole, however much of publishing was left undone
   * @throws OutputException if something is
   */
  public static void requireNoneHalfPublished(
      String output, Collection<String> names, Set<String> latest) {
    for (String name : names) {
      Matcher matcher = NAME.matcher(name);
      if (matcher.matches()
          && MARKER.equals(matcher.group(2))
          && !latest.contains(matcher.group(1).replace(STEP, "/"))) {
        throw new OutputException(
            output,
            "the run that published '%s' died in the middle of it, as %s says, and nothing was removed. Run the same reshard again, which repairs it; if '%s' is known to be whole, or not wanted any more, remove %s by hand and clean up again."
                .formatted(matcher.group(1), name, matcher.group(1), name));
      }
    }
  }

  /**
   * Removes what is left in a local output, and what lies beside it if it holds shards and no tag.
   *
   * @throws OutputException if there is no such directory, something is half published, or it
   *     cannot be removed
   */
  public static List<Removed> remove(String output) {
    return remove(output, Set.of());
  }

  /** The same, but for what has one of the names {@code spared}. */
  public static List<Removed> remove(String output, Set<String> spared) {
    Path directory = Path.of(output).toAbsolutePath().normalize();
    try {
      List<Path> inside =
          in(directory, NAME).stream()
              .filter(left -> !spared.contains(left.getFileName().toString()))
              .toList();
      List<Path> beside =
          directory.getParent() == null
              ? List.of()
              : in(
                  directory.getParent(),
                  Pattern.compile(
                      "\\.reshard-%s\\.(unpublished|replaced|publishing|lock(?:\\..*)?)"
                          .formatted(Pattern.quote(directory.getFileName().toString()))));
      if (!Files.isDirectory(directory) && beside.isEmpty()) {
        throw new OutputException(output, "there is no such directory.");
      }
      Set<String> whole = new HashSet<>();
      for (String pointer : TargetStore.POINTERS) {
        Path latest = directory.resolve(pointer);
        if (Files.exists(latest)) {
          whole.add(Files.readString(latest).strip());
        }
      }
      requireNoneHalfPublished(output, names(inside), whole);
      requireNoneHalfPublished(output, names(beside), Set.of());
      for (Path left : Stream.concat(inside.stream(), beside.stream()).toList()) {
        requireNotHeld(output, left);
      }
      List<Removed> removed = new ArrayList<>();
      for (Path left : Stream.concat(inside.stream(), beside.stream()).toList()) {
        removed.add(removed(left));
        LocalStagingStore.deleteTree(left);
      }
      return removed;
    } catch (IOException e) {
      throw new OutputException(output, "cannot be cleaned up: " + IoReason.of(e), e);
    }
  }

  private static void requireNotHeld(String output, Path left) throws IOException {
    Path lock = left.endsWith(JobDirectory.NAME) ? left.resolve(JobDirectory.LOCK) : left;
    if ((lock != left || left.toString().endsWith(LOCK)) && Files.exists(lock)) {
      Optional<LockHolder> holder = new LocalLock(lock).livingHolder();
      if (holder.isPresent()) {
        throw new OutputHeldException(output, holder.get().describe());
      }
    }
  }

  private static List<Path> in(Path directory, Pattern name) throws IOException {
    if (!Files.isDirectory(directory)) {
      return List.of();
    }
    try (Stream<Path> children = Files.list(directory)) {
      return children
          .filter(child -> name.matcher(child.getFileName().toString()).matches())
          .sorted()
          .toList();
    }
  }

  private static List<String> names(List<Path> paths) {
    return paths.stream().map(path -> path.getFileName().toString()).toList();
  }

  private static Removed removed(Path left) throws IOException {
    long files = 0;
    long bytes = 0;
    try (Stream<Path> tree = Files.walk(left)) {
      for (Path file : tree.filter(Files::isRegularFile).toList()) {
        files++;
        bytes += Files.size(file);
      }
    }
    return new Removed(left.toString(), files, bytes);
  }
}
