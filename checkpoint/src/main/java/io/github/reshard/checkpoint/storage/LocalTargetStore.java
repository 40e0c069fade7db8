package io.github.reshard.checkpoint.storage;

import io.github.reshard.checkpoint.OutputException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileVisitResult;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.SimpleFileVisitor;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.PosixFilePermission;
import java.util.HashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;

/**
 * A directory of a local file system. Files grow in a directory beside the tag; publishing renames
 * it.
 *
 * <p>The order of steps when a tag is published is what makes a crash harmless: {@code latest}
 * never names a tag that is not whole, and while the marker file is there a rerun may replace what
 * it finds.
 */
public final class LocalTargetStore implements TargetStore {
  private static final long serialVersionUID = 1L;
  private static final String LATEST = "latest";
  private static final Object PUBLISHING = new Object();

  private final String output;
  private final String tag;
  private final boolean overwrite;

  /**
   * @param output the directory that gets the checkpoint
   * @param tag its tag
   * @param overwrite whether a tag that is there is replaced
   */
  public LocalTargetStore(String output, String tag, boolean overwrite) {
    this.output = output;
    this.tag = tag;
    this.overwrite = overwrite;
  }

  private Path directory() {
    return Path.of(output);
  }

  private Path tagDirectory() {
    return directory().resolve(tag);
  }

  private Path staging() {
    return directory().resolve(".reshard-" + tag + ".unpublished");
  }

  private Path replaced() {
    return directory().resolve(".reshard-" + tag + ".replaced");
  }

  private Path marker() {
    return directory().resolve(".reshard-" + tag + ".publishing");
  }

  @Override
  public void begin() throws IOException {
    if (Files.exists(tagDirectory()) && !overwrite && !Files.exists(marker())) {
      throw new OutputException(
          tagDirectory().toString(), "the output already holds this tag; --overwrite replaces it.");
    }
    try {
      Files.createDirectories(directory());
      deleteTree(staging());
      Files.createDirectories(staging());
    } catch (IOException e) {
      throw new OutputException(output, "cannot be written: " + e, e);
    }
  }

  @Override
  public PositionalFile open(String path) throws IOException {
    Path file = staging().resolve(path);
    try {
      makeDirectory(file.getParent());
      FileChannel channel =
          FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
      return new LocalPositionalFile(file, channel);
    } catch (IOException e) {
      throw new OutputException(file.toString(), "cannot be created: " + e, e);
    }
  }

  /**
   * Makes {@code directory} and those above it, but not the one that all unpublished files lie in:
   * a worker that is late must not bring back what was published.
   */
  private void makeDirectory(Path directory) throws IOException {
    if (directory.equals(staging()) || Files.isDirectory(directory)) {
      return;
    }
    makeDirectory(directory.getParent());
    try {
      Files.createDirectory(directory);
    } catch (FileAlreadyExistsException e) {
      if (!Files.isDirectory(directory)) {
        throw e;
      }
    }
  }

  private record LocalPositionalFile(Path path, FileChannel channel) implements PositionalFile {
    @Override
    public void write(long position, ByteBuffer source) {
      try {
        long at = position;
        while (source.hasRemaining()) {
          at += channel.write(source, at);
        }
      } catch (IOException e) {
        throw new OutputException(path.toString(), "cannot be written: " + e.getMessage(), e);
      }
    }

    @Override
    public void close() {
      try {
        channel.close();
      } catch (IOException e) {
        throw new OutputException(path.toString(), "cannot be written: " + e.getMessage(), e);
      }
    }
  }

  @Override
  public void finish(String path, long bytes, boolean executable) throws IOException {
    Path file = staging().resolve(path);
    try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE)) {
      if (channel.size() != bytes) {
        throw new OutputException(
            file.toString(),
            "has %d bytes where %d were written. Something else writes to it, or the file system lost them."
                .formatted(channel.size(), bytes));
      }
      markExecutable(file, executable);
      channel.force(true);
    } catch (IOException e) {
      throw new OutputException(file.toString(), "cannot be made durable: " + e.getMessage(), e);
    }
  }

  /** Whoever may read a program may run it. */
  private static void markExecutable(Path file, boolean executable) throws IOException {
    if (!executable || !file.getFileSystem().supportedFileAttributeViews().contains("posix")) {
      return;
    }
    Set<PosixFilePermission> permissions = new HashSet<>(Files.getPosixFilePermissions(file));
    if (permissions.contains(PosixFilePermission.OWNER_READ)) {
      permissions.add(PosixFilePermission.OWNER_EXECUTE);
    }
    if (permissions.contains(PosixFilePermission.GROUP_READ)) {
      permissions.add(PosixFilePermission.GROUP_EXECUTE);
    }
    if (permissions.contains(PosixFilePermission.OTHERS_READ)) {
      permissions.add(PosixFilePermission.OTHERS_EXECUTE);
    }
    Files.setPosixFilePermissions(file, permissions);
  }

  @Override
  public void publish(List<String> paths, String manifest, byte[] content) throws IOException {
    try {
      if (!Files.exists(staging())) {
        requirePublished(paths);
        return;
      }
      // Runners may run this twice at once: in one process the monitor keeps the two apart, in two
      // processes the lock does.
      synchronized (PUBLISHING) {
        try (FileChannel channel =
                FileChannel.open(marker(), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
            FileLock lock = channel.lock()) {
          if (lock.isValid() && Files.exists(staging())) {
            replace(paths, manifest, content);
          } else {
            requirePublished(paths);
          }
        }
      }
    } catch (IOException e) {
      throw new OutputException(output, "the tag cannot be published: " + e, e);
    }
  }

  private void requirePublished(List<String> paths) {
    firstMissing(directory(), paths)
        .ifPresent(
            missing -> {
              throw new OutputException(
                  missing.toString(),
                  "is gone before it was published: did something delete it, or another run write to the same output? Run again.");
            });
  }

  private static Optional<Path> firstMissing(Path directory, List<String> paths) {
    return paths.stream().map(directory::resolve).filter(path -> !Files.exists(path)).findFirst();
  }

  private void replace(List<String> paths, String manifest, byte[] content) throws IOException {
    Path latest = directory().resolve(LATEST);
    Path stagedTag = staging().resolve(tag);
    List<String> inTag =
        paths.stream().filter(p -> p.startsWith(tag + "/") && !p.equals(manifest)).toList();
    Optional<Path> missing = firstMissing(staging(), inTag);
    if (missing.isEmpty()) {
      write(staging().resolve(manifest), content);
      sync(stagedTag);
      if (Files.exists(latest) && Files.readString(latest).strip().equals(tag)) {
        Files.delete(latest);
        sync(directory());
      }
      if (Files.exists(tagDirectory())) {
        deleteTree(replaced());
        Files.move(tagDirectory(), replaced(), StandardCopyOption.ATOMIC_MOVE);
      }
      Files.move(stagedTag, tagDirectory(), StandardCopyOption.ATOMIC_MOVE);
    } else if (firstMissing(directory(), inTag).isPresent()) {
      throw new OutputException(
          missing.get().toString(),
          "is gone before it was published: did something delete it, or another run write to the same output? Run again.");
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
    Path newLatest = staging().resolve(LATEST);
    write(newLatest, tag.getBytes(StandardCharsets.UTF_8));
    Files.move(
        newLatest, latest, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    sync(directory());
    deleteTree(replaced());
    deleteTree(staging());
    Files.deleteIfExists(marker());
  }

  @Override
  public void abandon() throws IOException {
    if (!Files.exists(marker())) {
      deleteTree(staging());
    }
  }

  private static void write(Path file, byte[] content) throws IOException {
    try (FileChannel channel =
        FileChannel.open(
            file,
            StandardOpenOption.CREATE,
            StandardOpenOption.WRITE,
            StandardOpenOption.TRUNCATE_EXISTING)) {
      ByteBuffer bytes = ByteBuffer.wrap(content);
      while (bytes.hasRemaining()) {
        channel.write(bytes);
      }
      channel.force(true);
    }
  }

  /** Makes renames in a directory durable. */
  private static void sync(Path directory) throws IOException {
    try (FileChannel channel = FileChannel.open(directory, StandardOpenOption.READ)) {
      channel.force(true);
    }
  }

  private static void deleteTree(Path root) throws IOException {
    if (!Files.exists(root)) {
      return;
    }
    Files.walkFileTree(
        root,
        new SimpleFileVisitor<>() {
          @Override
          public FileVisitResult visitFile(Path file, BasicFileAttributes attributes)
              throws IOException {
            Files.delete(file);
            return FileVisitResult.CONTINUE;
          }

          @Override
          public FileVisitResult postVisitDirectory(Path directory, IOException failure)
              throws IOException {
            if (failure != null) {
              throw failure;
            }
            Files.delete(directory);
            return FileVisitResult.CONTINUE;
          }
        });
  }
}
