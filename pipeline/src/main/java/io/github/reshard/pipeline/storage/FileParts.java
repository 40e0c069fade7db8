package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.pipeline.storage.ObjectStore.Found;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;

/**
 * What workers write of one file, as objects that are then put together inside the store:
 *
 * <ul>
 *   <li>{@code OFFSET.run}: a run of bytes that begins at {@code OFFSET} (16 hexadecimal digits),
 *       as one worker wrote it;
 *   <li>{@code OFFSET.small}: short runs in one object, each with its offset and length before it,
 *       since an object for each would cost a request for each.
 * </ul>
 */
final class FileParts {
  /** Short runs are put down when they are this many bytes together. */
  private static final int MOST_SMALL_BYTES = 8 << 20;

  private final ObjectStore store;
  private final String run;
  private final String path;
  private final String prefix;
  private final int smallBytes;

  /**
   * @param path of the file, for messages
   * @param prefix of the names of its objects
   * @param smallBytes runs up to this length share an object
   */
  FileParts(ObjectStore store, String run, String path, String prefix, int smallBytes) {
    this.store = store;
    this.run = run;
    this.path = path;
    this.prefix = prefix;
    this.smallBytes = smallBytes;
  }

  /** What one worker writes; it becomes objects. */
  PositionalFile open() {
    return new Part();
  }

  /** Removes the objects. */
  void delete() throws IOException {
    store.delete(store.list(prefix));
  }

  private static String offsetName(long offset) {
    return "%016x".formatted(offset);
  }

  private static long offsetIn(String name) {
    String last = name.substring(name.lastIndexOf('/') + 1);
    return Long.parseUnsignedLong(last.substring(0, last.indexOf('.')), 16);
  }

  private final class Part implements PositionalFile {
    private long runOffset = -1;
    private long at;
    private final ByteBuffer head = ByteBuffer.allocate(smallBytes);
    private ObjectStore.Upload upload;
    private final List<Piece> small = new ArrayList<>();
    private long smallTotal;

    @Override
    public void write(long position, ByteBuffer source) throws IOException {
      if (!source.hasRemaining()) {
        return;
      }
      if (runOffset < 0 || position != at) {
        if (position < at) {
          throw new IllegalStateException(
              "%s: byte %d after byte %d; objects are written forwards"
                  .formatted(path, position, at));
        }
        endRun();
        runOffset = position;
      }
      at = position + source.remaining();
      if (upload == null && source.remaining() > head.remaining()) {
        upload =
            store.create(prefix + offsetName(runOffset) + ".run", Map.of(ObjectStore.RUN, run));
        upload.write(head.flip());
      }
      if (upload == null) {
        head.put(source);
      } else {
        upload.write(source);
      }
    }

    private void endRun() throws IOException {
      if (upload != null) {
        upload.complete();
        upload = null;
      } else if (head.position() > 0) {
        byte[] bytes = new byte[head.flip().remaining()];
        head.get(bytes);
        small.add(new Piece(runOffset, bytes));
        smallTotal += bytes.length;
        if (smallTotal > MOST_SMALL_BYTES) {
          putDownSmall();
        }
      }
      head.clear();
    }

    private void putDownSmall() throws IOException {
      if (small.isEmpty()) {
        return;
      }
      ByteBuffer all =
          ByteBuffer.allocate(Math.toIntExact(smallTotal + (long) Piece.HEADER * small.size()));
      small.forEach(
          piece -> all.putLong(piece.offset()).putInt(piece.bytes().length).put(piece.bytes()));
      ObjectStore.Upload object =
          store.create(
              prefix + offsetName(small.get(0).offset()) + ".small", Map.of(ObjectStore.RUN, run));
      object.write(all.flip());
      object.complete();
      small.clear();
      smallTotal = 0;
    }

    @Override
    public void complete() throws IOException {
      endRun();
      putDownSmall();
      runOffset = -1;
    }

    @Override
    public void close() {
      if (upload != null) {
        upload.abandon();
        upload = null;
      }
    }
  }

  /** Some bytes of a file. */
  @SuppressWarnings("ArrayRecordComponent") // Handed on, never compared.
  private record Piece(long offset, byte[] bytes) {
    /** Bytes before each piece in an object of small pieces: its offset and its length. */
    static final int HEADER = Long.BYTES + Integer.BYTES;

    static List<Piece> parse(byte[] object) {
      List<Piece> pieces = new ArrayList<>();
      ByteBuffer in = ByteBuffer.wrap(object);
      while (in.hasRemaining()) {
        long offset = in.getLong();
        byte[] bytes = new byte[in.getInt()];
        in.get(bytes);
        pieces.add(new Piece(offset, bytes));
      }
      return pieces;
    }
  }

  /** A run of a file: an object, or bytes that will be part of one. */
  private record Stretch(long offset, long bytes, Found object, Piece piece) {
    long end() {
      return offset + bytes;
    }
  }

  /**
   * Makes one object of all that was written.
   *
   * @param bytes the length of the file
   * @param whole the object's name
   * @throws OutputException if what is there has a hole, or overlaps
   */
  void join(long bytes, String whole, Map<String, String> metadata) throws IOException {
    List<Stretch> stretches = stretches(bytes, whole);
    boolean onlyPieces = stretches.stream().allMatch(s -> s.object() == null);
    if (onlyPieces) {
      upload(whole, stretches, metadata);
      return;
    }
    List<Found> components = new ArrayList<>();
    List<Stretch> gap = new ArrayList<>();
    for (Stretch stretch : stretches) {
      if (stretch.object() == null) {
        gap.add(stretch);
        continue;
      }
      addGap(gap, components);
      components.add(stretch.object());
    }
    addGap(gap, components);
    store.concatenate(whole, components, metadata, prefix);
  }

  private void addGap(List<Stretch> gap, List<Found> components) throws IOException {
    if (gap.isEmpty()) {
      return;
    }
    String name = prefix + offsetName(gap.get(0).offset()) + ".gap";
    upload(name, gap, Map.of(ObjectStore.RUN, run));
    components.add(
        store
            .find(name)
            .orElseThrow(() -> new IOException(store.uri(name) + " was written and is gone")));
    gap.clear();
  }

  private void upload(String name, List<Stretch> pieces, Map<String, String> metadata)
      throws IOException {
    ObjectStore.Upload upload = store.create(name, metadata);
    for (Stretch stretch : pieces) {
      upload.write(ByteBuffer.wrap(stretch.piece().bytes()));
    }
    upload.complete();
  }

  /** Everything that was written of a file, in order and without holes. */
  private List<Stretch> stretches(long bytes, String whole) throws IOException {
    List<Stretch> found = new ArrayList<>();
    for (Found object : store.list(prefix)) {
      if (object.name().endsWith(".run")) {
        found.add(new Stretch(offsetIn(object.name()), object.bytes(), object, null));
      } else if (object.name().endsWith(".small")) {
        for (Piece piece : Piece.parse(store.read(object))) {
          found.add(new Stretch(piece.offset(), piece.bytes().length, null, piece));
        }
      }
    }
    found.sort(Comparator.comparingLong(Stretch::offset));
    long at = 0;
    for (Stretch stretch : found) {
      requireAt(whole, at, stretch.offset());
      at = stretch.end();
    }
    requireAt(whole, at, bytes);
    return found;
  }

  private void requireAt(String whole, long expected, long found) {
    if (expected != found) {
      throw new OutputException(
          store.uri(whole),
          "expected what was written to go on at byte %d, found it at byte %d. Something else writes to or removes from %s"
              .formatted(expected, found, store.uri(prefix)));
    }
  }
}
