package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.storage.ByteRange;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.Future;

/**
 * A distant file. What is announced is fetched in chunks of a bounded size, a few of them ahead of
 * the reader and none beyond what was announced; anything else is fetched as it is asked for.
 */
final class ReadAheadFile implements RangedFile {
  /** Large enough that a request's cost vanishes. */
  static final int CHUNK_BYTES = 4 << 20;

  /** Chunks that are fetched or kept at once. */
  static final int CHUNKS_AHEAD = 4;

  /** Fetches a range; called from several threads. */
  interface Fetch {
    byte[] read(long position, int bytes) throws IOException;
  }

  private final String path;
  private final long size;
  private final Fetch fetch;

  private List<ByteRange> expected = List.of();

  /** Chunk {@code k} of {@link #ahead} is being fetched or there; the others are null. */
  private Future<byte[]>[] ahead = chunks(0);

  private int next;

  ReadAheadFile(String path, long size, Fetch fetch) {
    this.path = path;
    this.size = size;
    this.fetch = fetch;
  }

  @SuppressWarnings({"unchecked", "rawtypes"}) // An array of a generic type cannot be made else.
  private static Future<byte[]>[] chunks(int count) {
    return new Future[count];
  }

  @Override
  public String path() {
    return path;
  }

  @Override
  public long size() {
    return size;
  }

  @Override
  public synchronized void expect(List<ByteRange> ranges) {
    forget();
    expected = ranges.stream().flatMap(range -> Chunks.of(range, CHUNK_BYTES, size)).toList();
    ahead = chunks(expected.size());
    next = 0;
  }

  @Override
  public synchronized void readFully(long position, ByteBuffer target) throws IOException {
    if (target.remaining() > size - position) {
      throw new EOFException(
          "%s ends at byte %d, %d bytes were expected from byte %d"
              .formatted(path, size, target.remaining(), position));
    }
    long at = position;
    while (target.hasRemaining()) {
      int chunk = find(at);
      if (chunk < 0) {
        target.put(fetch.read(at, target.remaining()));
        return;
      }
      for (; next < chunk; next++) {
        drop(next);
      }
      for (int k = chunk; k < Math.min(chunk + CHUNKS_AHEAD, ahead.length); k++) {
        if (ahead[k] == null) {
          ByteRange range = expected.get(k);
          ahead[k] =
              InParallel.REQUESTS.submit(() -> fetch.read(range.position(), (int) range.bytes()));
        }
      }
      byte[] bytes = InParallel.get(ahead[chunk]);
      int from = (int) (at - expected.get(chunk).position());
      int length = Math.min(bytes.length - from, target.remaining());
      target.put(bytes, from, length);
      at += length;
    }
  }

  private int find(long position) {
    for (int k = next; k < expected.size(); k++) {
      ByteRange range = expected.get(k);
      if (position >= range.position() && position < range.end()) {
        return k;
      }
    }
    return -1;
  }

  private void drop(int chunk) {
    if (ahead[chunk] != null) {
      ahead[chunk].cancel(false);
      ahead[chunk] = null;
    }
  }

  private void forget() {
    for (int k = next; k < ahead.length; k++) {
      drop(k);
    }
  }

  @Override
  public synchronized void close() {
    forget();
    expected = List.of();
    ahead = chunks(0);
    next = 0;
  }
}
