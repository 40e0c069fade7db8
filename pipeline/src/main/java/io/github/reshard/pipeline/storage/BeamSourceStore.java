package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.EOFException;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.ReadableByteChannel;
import java.nio.channels.SeekableByteChannel;
import java.nio.file.NoSuchFileException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.TreeSet;
import org.apache.beam.sdk.io.FileSystems;
import org.apache.beam.sdk.io.fs.EmptyMatchTreatment;
import org.apache.beam.sdk.io.fs.MatchResult;
import org.apache.beam.sdk.io.fs.ResourceId;

/**
 * A checkpoint in any file system that Beam knows: {@code s3://}, {@code hdfs://}. A file's version
 * is the second of its last change: no more is common to all stores and to all their answers. What
 * changes within a second and keeps its length is found out by the CRCs in it.
 */
final class BeamSourceStore implements SourceStore {
  private static final long serialVersionUID = 1L;

  @Override
  public Listing list(String directory) throws IOException {
    String prefix = directory.endsWith("/") ? directory : directory + "/";
    List<FileStat> files = new ArrayList<>();
    TreeSet<String> directories = new TreeSet<>();
    for (MatchResult.Metadata found : match(prefix + "**")) {
      String path = found.resourceId().toString();
      int at = path.indexOf(prefix);
      String name = at < 0 ? "" : path.substring(at + prefix.length());
      int slash = name.indexOf('/');
      if (slash >= 0) {
        directories.add(name.substring(0, slash));
      } else if (!name.isEmpty()) {
        files.add(stat(name, found));
      }
    }
    if (files.isEmpty() && directories.isEmpty()) {
      throw new NoSuchFileException(directory);
    }
    files.sort(Comparator.comparing(FileStat::name));
    return new Listing(List.copyOf(files), List.copyOf(directories));
  }

  static List<MatchResult.Metadata> match(String spec) throws IOException {
    MatchResult result = FileSystems.match(spec, EmptyMatchTreatment.ALLOW);
    return switch (result.status()) {
      case NOT_FOUND -> List.of();
      default -> result.metadata();
    };
  }

  static String version(MatchResult.Metadata found) {
    // A listing of S3 has milliseconds and no checksum, a look at one object the opposite.
    return Long.toString(found.lastModifiedMillis() / 1000);
  }

  private static FileStat stat(String name, MatchResult.Metadata found) {
    return new FileStat(
        found.resourceId().toString(),
        name,
        found.sizeBytes(),
        version(found),
        false,
        Instant.ofEpochSecond(found.lastModifiedMillis() / 1000));
  }

  @Override
  public RangedFile open(FileStat file) throws IOException {
    MatchResult.Metadata now;
    try {
      now = FileSystems.matchSingleFileSpec(file.path());
    } catch (FileNotFoundException e) {
      throw new RefusedException(file.path(), "was removed while it was being read", e);
    }
    if (!stat(file.name(), now).equals(file)) {
      throw new RefusedException(
          file.path(),
          "changed while it was being read: planned with %d bytes of %s, found %d bytes of %s. Run again when nothing writes to it."
              .formatted(file.bytes(), file.version(), now.sizeBytes(), version(now)));
    }
    return new BeamFile(file, now.resourceId());
  }

  @Override
  public int readsAtOnce() {
    return InParallel.AT_ONCE;
  }

  @Override
  public String child(String directory, String name) {
    return ObjectName.child(directory, name);
  }

  /** One channel that is moved when the reader jumps; a store takes a new request for each jump. */
  private static final class BeamFile implements RangedFile {
    private final FileStat stat;
    private final ResourceId resource;
    private SeekableByteChannel channel;

    BeamFile(FileStat stat, ResourceId resource) {
      this.stat = stat;
      this.resource = resource;
    }

    @Override
    public String path() {
      return stat.path();
    }

    @Override
    public long size() {
      return stat.bytes();
    }

    @Override
    public synchronized void readFully(long position, ByteBuffer target) throws IOException {
      if (target.remaining() > stat.bytes() - position) {
        throw new EOFException(
            "%s ends at byte %d, %d bytes were expected from byte %d"
                .formatted(stat.path(), stat.bytes(), target.remaining(), position));
      }
      if (!target.hasRemaining()) {
        return;
      }
      if (channel == null) {
        ReadableByteChannel opened = FileSystems.open(resource);
        if (!(opened instanceof SeekableByteChannel seekable)) {
          opened.close();
          throw new RefusedException(
              stat.path(), "this file system cannot read from the middle of a file");
        }
        channel = seekable;
      }
      if (channel.position() != position) {
        channel.position(position);
      }
      while (target.hasRemaining()) {
        if (channel.read(target) < 0) {
          throw new EOFException(
              "%s ends before its %d bytes were read".formatted(stat.path(), stat.bytes()));
        }
      }
    }

    @Override
    public synchronized void close() throws IOException {
      if (channel != null) {
        channel.close();
        channel = null;
      }
    }
  }
}
