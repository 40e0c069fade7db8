package io.github.reshard.checkpoint.storage;

import io.github.reshard.checkpoint.RefusedException;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
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
          directories.add(name);
        } else {
          files.add(stat(child));
        }
      }
    }
    return new Listing(List.copyOf(files), List.copyOf(directories));
  }

  private static FileStat stat(Path path) throws IOException {
    BasicFileAttributes attributes = Files.readAttributes(path, BasicFileAttributes.class);
    return new FileStat(
        path.toString(),
        path.getFileName().toString(),
        attributes.size(),
        attributes.lastModifiedTime().toString(),
        Files.isExecutable(path));
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
    return new LocalRangedFile(file, FileChannel.open(path, StandardOpenOption.READ));
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
