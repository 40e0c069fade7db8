package io.github.reshard.checkpoint.storage;

import io.github.reshard.checkpoint.IoReason;
import io.github.reshard.checkpoint.OutputException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.List;
import java.util.Optional;

/**
 * A directory of a local file system. Files grow in a directory beside the tag; publishing renames
 * it.
 *
 * <p>The order of steps when a tag is published is what makes a crash harmless: {@code latest}
 * never names a tag that is not whole, and while the marker file is there a rerun may replace what
 * it finds.
 */
public final class LocalTargetStore extends LocalStagingStore {
  private static final long serialVersionUID = 1L;

  private final String output;
  private final String tag;
  private final String latest;
  private final Publishing publishing;

  /**
   * @param output the directory that gets the checkpoint
   * @param tag its tag
   * @param overwrite whether a tag that is there is replaced
   */
  public LocalTargetStore(String output, String tag, boolean overwrite) {
    this(output, tag, LATEST, Publishing.of(overwrite));
  }

  /**
   * @param output the directory that gets the checkpoint
   * @param tag its tag
   * @param latest the file that then names the tag, {@link TargetStore#LATEST} or {@link
   *     TargetStore#LATEST_UNIVERSAL}
   */
  public LocalTargetStore(String output, String tag, String latest, Publishing publishing) {
    super(publishing.run());
    this.output = output;
    this.tag = tag;
    this.latest = latest;
    this.publishing = publishing;
  }

  /**
   * Removes a published checkpoint. It is out of sight at once; what a crash leaves is a leftover.
   *
   * @param name of its directory in {@code output}
   */
  public static void removePublished(Path output, String name) throws IOException {
    Path gone = output.resolve(Leftovers.name(name, "replaced"));
    Files.move(output.resolve(name), gone);
    deleteTree(gone);
  }

  @Override
  Path directory() {
    return Path.of(output);
  }

  private Path tagDirectory() {
    return directory().resolve(tag);
  }

  @Override
  Path unpublished() {
    return directory().resolve(Leftovers.name(tag, "unpublished"));
  }

  private Path replaced() {
    return directory().resolve(Leftovers.name(tag, "replaced"));
  }

  @Override
  Path marker() {
    return directory().resolve(Leftovers.name(tag, "publishing"));
  }

  @Override
  LocalLock lock() {
    return new LocalLock(directory().resolve(Leftovers.name(tag, "lock")));
  }

  @Override
  public void begin() throws IOException {
    requireReplaceable();
    try {
      Files.createDirectories(directory());
      hold(output);
    } catch (IOException e) {
      throw new OutputException(output, "cannot be written: " + IoReason.of(e), e);
    }
    try {
      // Another run may have published it before this one had the output.
      requireReplaceable();
    } catch (OutputException e) {
      release();
      throw e;
    }
  }

  private void requireReplaceable() {
    if (Files.exists(tagDirectory()) && !publishing.overwrite() && !Files.exists(marker())) {
      throw new OutputException(
          tagDirectory().toString(), "the output already holds this tag; --overwrite replaces it.");
    }
  }

  @Override
  boolean replace(List<String> paths, String manifest, byte[] content) throws IOException {
    Path pointer = directory().resolve(latest);
    Path stagedTag = staging().resolve(tag);
    List<String> inTag =
        paths.stream().filter(p -> p.startsWith(tag + "/") && !p.equals(manifest)).toList();
    Optional<Path> missing = firstMissing(staging(), inTag);
    if (missing.isEmpty()) {
      write(staging().resolve(manifest), content);
      sync(stagedTag);
      if (Files.exists(pointer) && Files.readString(pointer).strip().equals(tag)) {
        Files.delete(pointer);
        sync(directory());
      }
      if (Files.exists(tagDirectory())) {
        deleteTree(replaced());
        Files.move(tagDirectory(), replaced(), StandardCopyOption.ATOMIC_MOVE);
      }
      Files.createDirectories(tagDirectory().getParent());
      Files.move(stagedTag, tagDirectory(), StandardCopyOption.ATOMIC_MOVE);
      sync(tagDirectory().getParent());
    } else if (firstMissing(directory(), inTag).isPresent()) {
      throw gone(missing.get());
    }
    for (String path : paths) {
      Path staged = staging().resolve(path);
      if (!path.startsWith(tag + "/") && Files.exists(staged)) {
        Path target = directory().resolve(path);
        Files.createDirectories(target.getParent());
        Files.move(
            staged, target, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
      }
    }
    sync(directory());
    // None is there if it named this tag, also if a run died since it took it away.
    if (publishing.leads() || !Files.exists(pointer)) {
      Path newPointer = staging().resolve(latest);
      write(newPointer, tag.getBytes(StandardCharsets.UTF_8));
      Files.move(
          newPointer, pointer, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
      sync(directory());
    }
    return clear(replaced());
  }
}
