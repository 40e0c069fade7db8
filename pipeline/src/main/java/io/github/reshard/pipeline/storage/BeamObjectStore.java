package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.IoReason;
import io.github.reshard.checkpoint.OutputException;
import java.io.EOFException;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.ReadableByteChannel;
import java.nio.channels.WritableByteChannel;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.zip.CRC32C;
import org.apache.beam.sdk.io.FileSystems;
import org.apache.beam.sdk.io.fs.MatchResult;
import org.apache.beam.sdk.io.fs.MoveOptions.StandardMoveOptions;
import org.apache.beam.sdk.io.fs.ResourceId;
import org.apache.beam.sdk.util.MimeTypes;

/**
 * Any file system that Beam knows. They have no compose, so the bytes of a file travel three times:
 * written as parts, read again and written as one, which checks them, and copied to their final
 * name, on S3 inside the store. What is written as a part ends with its CRC-32C.
 */
final class BeamObjectStore implements ObjectStore {
  private static final long serialVersionUID = 1L;
  private static final int CRC_BYTES = Integer.BYTES;
  private static final int BUFFER_BYTES = 1 << 20;

  private final String root;

  /**
   * @param root scheme and authority, {@code s3://bucket}
   */
  BeamObjectStore(String root) {
    this.root = root;
  }

  @Override
  public String uri(String name) {
    return root + "/" + name;
  }

  private ResourceId resource(String name) {
    return FileSystems.matchNewResource(uri(name), false);
  }

  private static boolean isPart(String name) {
    return name.endsWith(".run") || name.endsWith(".small") || name.endsWith(".gap");
  }

  private Found found(MatchResult.Metadata metadata) {
    String path = metadata.resourceId().toString();
    String name = path.substring(path.indexOf(root + "/") + root.length() + 1);
    return new Found(
        name,
        metadata.sizeBytes() - (isPart(name) ? CRC_BYTES : 0),
        BeamSourceStore.version(metadata),
        metadata.lastModifiedMillis(),
        Map.of());
  }

  @Override
  public List<Found> list(String prefix) {
    try {
      List<Found> all = new ArrayList<>();
      BeamSourceStore.match(uri(prefix) + "**").forEach(m -> all.add(found(m)));
      all.sort(Comparator.comparing(Found::name));
      return all;
    } catch (FileNotFoundException e) {
      return List.of();
    } catch (IOException | RuntimeException e) {
      throw new OutputException(uri(prefix), "cannot be listed: " + IoReason.of(e), e);
    }
  }

  @Override
  public Optional<Found> find(String name) {
    try {
      return BeamSourceStore.match(uri(name)).stream().findFirst().map(this::found);
    } catch (FileNotFoundException e) {
      return Optional.empty();
    } catch (IOException | RuntimeException e) {
      throw new OutputException(uri(name), "cannot be looked at: " + IoReason.of(e), e);
    }
  }

  @Override
  public Upload create(String name, Map<String, String> metadata) {
    return new BeamUpload(name);
  }

  private final class BeamUpload implements Upload {
    private final String name;
    private final WritableByteChannel channel;
    private final CRC32C crc = new CRC32C();

    BeamUpload(String name) {
      this.name = name;
      try {
        channel = FileSystems.create(resource(name), MimeTypes.BINARY);
      } catch (IOException | RuntimeException e) {
        throw failure(name, e);
      }
    }

    @Override
    public void write(ByteBuffer source) {
      crc.update(source.duplicate());
      writeAll(source);
    }

    private void writeAll(ByteBuffer source) {
      try {
        while (source.hasRemaining()) {
          channel.write(source);
        }
      } catch (IOException | RuntimeException e) {
        throw failure(name, e);
      }
    }

    @Override
    public void complete() {
      if (isPart(name)) {
        writeAll(ByteBuffer.allocate(CRC_BYTES).putInt((int) crc.getValue()).flip());
      }
      try {
        channel.close();
      } catch (IOException | RuntimeException e) {
        throw failure(name, e);
      }
    }

    @Override
    public void abandon() {
      // Closing would make half a part appear, and perhaps in place of a whole one.
    }
  }

  private OutputException failure(String name, Exception e) {
    return new OutputException(uri(name), "cannot be written: " + IoReason.of(e), e);
  }

  @Override
  public void put(String name, byte[] content) {
    BeamUpload upload = new BeamUpload(name);
    upload.write(ByteBuffer.wrap(content));
    upload.complete();
  }

  /** These file systems know no preconditions: of two in the same moment both may succeed. */
  @Override
  public boolean putIfAbsent(String name, byte[] content) {
    if (find(name).isPresent()) {
      return false;
    }
    put(name, content);
    return true;
  }

  @Override
  public boolean replace(Found old, byte[] content) {
    Optional<Found> there = find(old.name());
    if (there.isEmpty() || !there.get().version().equals(old.version())) {
      return false;
    }
    put(old.name(), content);
    return true;
  }

  @Override
  public byte[] read(Found object) throws IOException {
    ByteBuffer content = ByteBuffer.allocate(Math.toIntExact(object.bytes()));
    stream(object, buffer -> content.put(buffer));
    return content.array();
  }

  /** Receives bytes. */
  private interface Sink {
    void accept(ByteBuffer bytes) throws IOException;
  }

  /** Reads an object once and, if it is a part, compares its CRC. */
  private void stream(Found object, Sink sink) throws IOException {
    CRC32C crc = new CRC32C();
    try (ReadableByteChannel in = FileSystems.open(resource(object.name()))) {
      ByteBuffer buffer = ByteBuffer.allocate(BUFFER_BYTES);
      for (long left = object.bytes(); left > 0; ) {
        buffer.clear().limit((int) Math.min(left, BUFFER_BYTES));
        fill(object, in, buffer);
        left -= buffer.flip().remaining();
        crc.update(buffer.duplicate());
        sink.accept(buffer);
      }
      if (isPart(object.name())) {
        ByteBuffer recorded = ByteBuffer.allocate(CRC_BYTES);
        fill(object, in, recorded);
        if (recorded.flip().getInt() != (int) crc.getValue()) {
          throw new OutputException(
              uri(object.name()),
              "expected its bytes to have the CRC-32C that was written behind them. The store"
                  + " changed them, or something else writes here; run again.");
        }
      }
    }
  }

  private void fill(Found object, ReadableByteChannel in, ByteBuffer buffer) throws IOException {
    while (buffer.hasRemaining()) {
      if (in.read(buffer) < 0) {
        throw new EOFException(
            "%s ends before its %d bytes were read".formatted(uri(object.name()), object.bytes()));
      }
    }
  }

  @Override
  public void concatenate(
      String name, List<Found> components, Map<String, String> metadata, String scratch)
      throws IOException {
    Upload upload = create(name, metadata);
    for (Found component : components) {
      stream(component, upload::write);
    }
    upload.complete();
  }

  @Override
  public void copy(Found from, String to) {
    try {
      FileSystems.copy(List.of(resource(from.name())), List.of(resource(to)));
    } catch (IOException | RuntimeException e) {
      throw failure(to, e);
    }
  }

  @Override
  public void delete(List<Found> objects) {
    try {
      FileSystems.delete(
          objects.stream().map(object -> resource(object.name())).toList(),
          StandardMoveOptions.IGNORE_MISSING_FILES);
    } catch (IOException | RuntimeException e) {
      throw new OutputException(
          uri(objects.get(0).name()), "cannot be removed: " + IoReason.of(e), e);
    }
  }
}
