package io.github.reshard.checkpoint.storage;

import java.io.EOFException;
import java.io.IOException;
import java.io.Serializable;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * A store with files that nobody wrote: each is put together of bytes that are known and of ranges
 * of files of the store below. So what lies in many small files can be read as if it lay in one.
 */
public final class ComposedStore implements SourceStore {
  private static final long serialVersionUID = 1L;

  private final SourceStore below;
  private final Map<FileStat, List<Segment>> composed = new HashMap<>();

  /**
   * @param files the files that are put together
   */
  public ComposedStore(SourceStore below, Collection<Composed> files) {
    this.below = below;
    files.forEach(file -> composed.put(file.stat(), file.segments()));
  }

  /**
   * A file that is put together.
   *
   * @param stat how it is listed and opened
   * @param segments in order, from its first byte to its last
   */
  public record Composed(FileStat stat, List<Segment> segments) {
    public Composed {
      segments = List.copyOf(segments);
    }
  }

  /**
   * A run of bytes of such a file.
   *
   * @param start its first byte in the file
   * @param bytes how many
   * @param file where they are, or null
   * @param offset their first byte there
   * @param literal the bytes themselves, or null; zeros if there is no file either
   * @param rows how they lie in the file, or null if they follow one another
   */
  @SuppressWarnings("ArrayRecordComponent") // Never compared.
  public record Segment(
      long start, long bytes, FileStat file, long offset, byte[] literal, Rows rows)
      implements Serializable {}

  /**
   * Bytes that lie in rows of a file, as columns of a matrix do.
   *
   * @param bytes of each row
   * @param distance from the first byte of a row to that of the next
   */
  public record Rows(long bytes, long distance) implements Serializable {
    /** The most bytes of a file that are read at once. */
    private static final long MOST = 4L << 20;

    /**
     * Reads some of them.
     *
     * @param offset of the first row
     * @param from the first byte that is wanted of all rows end to end
     */
    void read(RangedFile file, long offset, long from, ByteBuffer target) throws IOException {
      long at = from;
      while (target.hasRemaining()) {
        long first = at / bytes;
        long in = at % bytes;
        long wanted = (at + target.remaining() - 1) / bytes - first + 1;
        long rows = Math.max(1, Math.min(wanted, MOST / distance));
        long span = Math.min(MOST, (rows - 1) * distance + bytes - in);
        ByteBuffer read = ByteBuffer.allocate(Math.toIntExact(span));
        file.readFully(offset + first * distance + in, read);
        for (long row = 0; row < rows && target.hasRemaining(); row++) {
          long begin = row == 0 ? 0 : row * distance - in;
          long length = Math.min(row == 0 ? bytes - in : bytes, span - begin);
          ByteBuffer found = read.slice((int) begin, (int) Math.min(length, target.remaining()));
          at += found.remaining();
          target.put(found);
        }
      }
    }
  }

  @Override
  public Listing list(String directory) throws IOException {
    return below.list(directory);
  }

  @Override
  public String child(String directory, String name) {
    return below.child(directory, name);
  }

  @Override
  public int readsAtOnce() {
    return below.readsAtOnce();
  }

  @Override
  public RangedFile open(FileStat file) throws IOException {
    List<Segment> segments = composed.get(file);
    return segments == null ? below.open(file) : new ComposedFile(below, file, segments);
  }

  @Override
  public void requireUnchanged(FileStat file) throws IOException {
    List<Segment> segments = composed.get(file);
    if (segments == null) {
      below.requireUnchanged(file);
      return;
    }
    Set<FileStat> parts = new LinkedHashSet<>();
    for (Segment segment : segments) {
      if (segment.file() != null) {
        parts.add(segment.file());
      }
    }
    for (FileStat part : parts) {
      below.requireUnchanged(part);
    }
  }

  /** Keeps the files that were read last open. */
  private static final class ComposedFile implements RangedFile {
    private static final int MOST_OPEN = 16;

    private final SourceStore store;
    private final FileStat stat;
    private final List<Segment> segments;
    private final LinkedHashMap<FileStat, RangedFile> open = new LinkedHashMap<>(16, 0.75f, true);

    ComposedFile(SourceStore store, FileStat stat, List<Segment> segments) {
      this.store = store;
      this.stat = stat;
      this.segments = segments;
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
      long at = position;
      if (at < 0 || target.remaining() > stat.bytes() - at) {
        throw new EOFException(stat.path() + " has " + stat.bytes() + " bytes");
      }
      int s = find(at);
      while (target.hasRemaining()) {
        Segment segment = segments.get(s++);
        long from = at - segment.start();
        int length = (int) Math.min(target.remaining(), segment.bytes() - from);
        ByteBuffer part = target.slice(target.position(), length);
        if (segment.rows() != null) {
          segment.rows().read(file(segment.file()), segment.offset(), from, part);
        } else if (segment.file() != null) {
          file(segment.file()).readFully(segment.offset() + from, part);
        } else if (segment.literal() != null) {
          part.put(segment.literal(), (int) from, length);
        } else {
          part.put(new byte[length]);
        }
        target.position(target.position() + length);
        at += length;
      }
    }

    private int find(long position) {
      int low = 0;
      int high = segments.size() - 1;
      while (low < high) {
        int middle = (low + high + 1) >>> 1;
        if (segments.get(middle).start() <= position) {
          low = middle;
        } else {
          high = middle - 1;
        }
      }
      return low;
    }

    private RangedFile file(FileStat part) throws IOException {
      RangedFile found = open.get(part);
      if (found == null) {
        if (open.size() == MOST_OPEN) {
          Iterator<RangedFile> oldest = open.values().iterator();
          oldest.next().close();
          oldest.remove();
        }
        found = store.open(part);
        open.put(part, found);
      }
      return found;
    }

    @Override
    public synchronized void close() throws IOException {
      for (RangedFile file : new ArrayList<>(open.values())) {
        file.close();
      }
      open.clear();
    }
  }
}
