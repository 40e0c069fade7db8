package io.github.reshard.checkpoint.storage;

import io.github.reshard.checkpoint.RefusedException;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.AccessDeniedException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;

/** The local file system; a file's version is its modification time. */
public final class LocalSourceStore implements SourceStore {
  private static final long serialVersionUID = 1L;

  @Override
  public Listing list(String directory) throws IOException {
    List<FileStat> files = new ArrayList<>();
    List<String> directories = new ArrayList<>();
    try (Stream<Path> children = Files.list(Path.of(directory))) {
      for (Path child : children.sorted().toList()) {
        String name = child.getFileName().toString();
        if (Files.isDirectory(child)) {
          requireNoLoop(child);
          directories.add(name);
        } else {
          files.add(stat(child));
        }
      }
    } catch (AccessDeniedException e) {
      throw new RefusedException(
          e.getFile(), "may not be listed by this user. Give read permission.", e);
    }
    return new Listing(List.copyOf(files), List.copyOf(directories));
  }

  /** A link to a directory above itself would make the tree endless. */
  private static void requireNoLoop(Path directory) throws IOException {
    if (Files.isSymbolicLink(directory)
        && directory.toAbsolutePath().getParent().toRealPath().startsWith(directory.toRealPath())) {
      throw new RefusedException(
          directory.toString(), "is a link to a directory that it lies in. Remove it.");
    }
  }

  private static FileStat stat(Path path) throws IOException {
    BasicFileAttributes attributes;
    try {
      attributes = Files.readAttributes(path, BasicFileAttributes.class);
    } catch (NoSuchFileException e) {
      throw new RefusedException(
          path.toString(),
          Files.isSymbolicLink(path)
              ? "is a link to " + Files.readSymbolicLink(path) + ", which does not exist."
              : "was there a moment ago and is gone. Run again when nothing writes to it.",
          e);
    }
    if (attributes.isOther()) {
      throw new RefusedException(
          path.toString(), "is neither a file nor a directory, but a pipe or a device. Remove it.");
    }
    return new FileStat(
        path.toString(),
        path.getFileName().toString(),
        attributes.size(),
        attributes.lastModifiedTime().toString(),
        Files.isExecutable(path),
        attributes.lastModifiedTime().toInstant());
  }

  @Override
  public RangedFile open(FileStat file) throws IOException {
    Path path = Path.of(file.path());
    FileStat now = stat(path);
    if (!now.equals(file)) {
      throw new RefusedException(
          file.path(),
          "changed while it was being read: planned with %d bytes of %s, found %d bytes of %s. Run again when nothing writes to it."
              .formatted(file.bytes(), file.version(), now.bytes(), now.version()));
    }
    try {
      return new LocalRangedFile(file, FileChannel.open(path, StandardOpenOption.READ));
    } catch (AccessDeniedException e) {
      throw new RefusedException(
          file.path(), "may not be read by this user. Give read permission.", e);
    }
  }

  @Override
  public String child(String directory, String name) {
    return Path.of(directory, name).toString();
  }

  private record LocalRangedFile(FileStat stat, FileChannel channel) implements RangedFile {
    @Override
    public String path() {
      return stat.path();
    }

    @Override
    public long size() {
      return stat.bytes();
    }

    @Override
    public void readFully(long position, ByteBuffer target) throws IOException {
      long at = position;
      while (target.hasRemaining()) {
        int read = channel.read(target, at);
        if (read < 0) {
          throw new EOFException(
              "%s ends at byte %d, %d more bytes were expected"
                  .formatted(stat.path(), at, target.remaining()));
        }
        at += read;
      }
    }

    @Override
    public void close() throws IOException {
      channel.close();
    }
  }
}
