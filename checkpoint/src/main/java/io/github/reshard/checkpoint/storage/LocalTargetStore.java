package io.github.reshard.checkpoint.storage;

import io.github.reshard.checkpoint.OutputException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileVisitResult;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.SimpleFileVisitor;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.PosixFilePermission;
import java.util.HashSet;
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
    Files.createDirectories(file.getParent());
    FileChannel channel =
        FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
    return new LocalPositionalFile(file, channel);
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
    public void close() throws IOException {
      channel.close();
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
  public void publish(Iterable<String> paths) throws IOException {
    try {
      if (Files.exists(staging())) {
        replace(paths);
      }
    } catch (IOException e) {
      throw new OutputException(output, "the tag cannot be published: " + e, e);
    }
  }

  private void replace(Iterable<String> paths) throws IOException {
    write(marker(), "");
    Path latest = directory().resolve(LATEST);
    Path stagedTag = staging().resolve(tag);
    if (Files.exists(stagedTag)) {
      if (Files.exists(latest) && Files.readString(latest).strip().equals(tag)) {
        Files.delete(latest);
      }
      if (Files.exists(tagDirectory())) {
        deleteTree(replaced());
        Files.move(tagDirectory(), replaced(), StandardCopyOption.ATOMIC_MOVE);
      }
      Files.move(stagedTag, tagDirectory(), StandardCopyOption.ATOMIC_MOVE);
    }
    for (String path : paths) {
      Path staged = staging().resolve(path);
      if (Files.exists(staged)) {
        Path target = directory().resolve(path);
        Files.createDirectories(target.getParent());
        Files.move(
            staged, target, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
      }
    }
    sync(directory());
    Path newLatest = staging().resolve(LATEST);
    write(newLatest, tag);
    Files.move(
        newLatest, latest, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    sync(directory());
    deleteTree(replaced());
    deleteTree(staging());
    Files.deleteIfExists(marker());
  }

  private static void write(Path file, String text) throws IOException {
    try (FileChannel channel =
        FileChannel.open(
            file,
            StandardOpenOption.CREATE,
            StandardOpenOption.WRITE,
            StandardOpenOption.TRUNCATE_EXISTING)) {
      ByteBuffer bytes = ByteBuffer.wrap(text.getBytes(StandardCharsets.UTF_8));
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
