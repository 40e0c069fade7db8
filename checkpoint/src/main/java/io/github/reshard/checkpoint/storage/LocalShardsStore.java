package io.github.reshard.checkpoint.storage;

import io.github.reshard.checkpoint.IoReason;
import io.github.reshard.checkpoint.OutputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.List;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * A local directory that is the output as a whole: files and no tag, so that nothing could say
 * which of two sets of files is the right one. They grow in a directory beside it, which publishing
 * renames; at no time does the output hold some of them only.
 */
public final class LocalShardsStore extends LocalStagingStore {
  private static final long serialVersionUID = 1L;

  private final String output;
  private final Set<String> replaceable;
  private final String pattern;
  private final boolean overwrite;

  /**
   * @param output the directory that gets the files
   * @param replaceable the names of files that may be replaced
   * @param pattern a name with one {@code *}: such files may be replaced too, an earlier run may
   *     have written more of them
   * @param overwrite whether what is there is replaced
   */
  public LocalShardsStore(
      String output, Set<String> replaceable, String pattern, boolean overwrite) {
    super(Publishing.newRun());
    this.output = output;
    this.replaceable = Set.copyOf(replaceable);
    this.pattern = pattern;
    this.overwrite = overwrite;
  }

  @Override
  Path directory() {
    return Path.of(output).toAbsolutePath().normalize();
  }

  private Path beside(String suffix) {
    return directory().resolveSibling(".reshard-" + directory().getFileName() + suffix);
  }

  @Override
  Path unpublished() {
    return beside(".unpublished");
  }

  private Path replaced() {
    return beside(".replaced");
  }

  @Override
  Path marker() {
    return beside(".publishing");
  }

  @Override
  LocalLock lock() {
    return new LocalLock(beside(".lock"));
  }

  @Override
  public void begin() throws IOException {
    if (directory().getFileName() == null) {
      throw new OutputException(output, "is the root of the file system; name a directory in it.");
    }
    try {
      requireReplaceable();
      Files.createDirectories(directory().getParent());
      hold(output);
    } catch (IOException e) {
      throw new OutputException(output, "cannot be written: " + IoReason.of(e), e);
    }
    try {
      // Another run may have published before this one had the output.
      requireReplaceable();
    } catch (OutputException e) {
      release();
      throw e;
    }
  }

  private void requireReplaceable() throws IOException {
    if (!Files.exists(directory())) {
      return;
    }
    try (Stream<Path> children = Files.list(directory())) {
      Set<String> names =
          children.map(child -> child.getFileName().toString()).collect(Collectors.toSet());
      if (names.isEmpty()) {
        return;
      }
      if (!overwrite && !Files.exists(marker())) {
        throw new OutputException(
            output, "is not empty; name another --output, or replace it with --overwrite.");
      }
      int star = pattern.indexOf('*');
      names.removeAll(replaceable);
      names.removeIf(
          name ->
              name.startsWith(pattern.substring(0, star))
                  && name.endsWith(pattern.substring(star + 1)));
      if (!names.isEmpty()) {
        throw new OutputException(
            output,
            "holds what --overwrite would not put back: %s. Move it away, or name another --output."
                .formatted(names.stream().sorted().toList()));
      }
    }
  }

  @Override
  public boolean publish(List<String> paths, String manifest, byte[] content) throws IOException {
    super.publish(paths, manifest, content);
    // All of it is there, also if a run before this one died right here.
    return clear(replaced());
  }

  @Override
  boolean replace(List<String> paths, String manifest, byte[] content) throws IOException {
    List<String> files = paths.stream().filter(path -> !path.equals(manifest)).toList();
    firstMissing(staging(), files)
        .ifPresent(
            missing -> {
              throw gone(missing);
            });
    write(staging().resolve(manifest), content);
    sync(staging());
    if (Files.exists(directory())) {
      requireReplaceable();
      deleteTree(replaced());
      Files.move(directory(), replaced(), StandardCopyOption.ATOMIC_MOVE);
    }
    Files.move(staging(), directory(), StandardCopyOption.ATOMIC_MOVE);
    sync(directory().getParent());
    return true;
  }
}
