package io.github.reshard.transforms;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import org.apache.beam.sdk.coders.Coder;

/**
 * Values of one key that travel as one. What a runner does for each value of a GroupByKey costs
 * more than what there is to do for a slice, in time and in memory; and it copies what has been
 * grouped again and again, which costs little of bytes.
 *
 * @param counts what the values count together, see {@link Gather.Measure}
 * @param bytes the values, encoded
 */
@SuppressWarnings("ArrayRecordComponent") // Compared by what is in it.
record Packed<T>(long counts, byte[] bytes) {
  /** So much of a key waits until it is handed on. */
  private static final int MOST_BYTES = 256 << 10;

  /** How it travels. */
  static <T> Coder<Packed<T>> coder() {
    return new PackedCoder<>();
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof Packed<?> that
        && that.counts == counts
        && Arrays.equals(that.bytes, bytes);
  }

  @Override
  public int hashCode() {
    return Arrays.hashCode(bytes);
  }

  /** Hands out the values. */
  void forEach(Coder<T> coder, Consumer<T> out) {
    ByteArrayInputStream in = new ByteArrayInputStream(bytes);
    try {
      while (in.available() > 0) {
        out.accept(coder.decode(in));
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static final class PackedCoder<T> extends RecordCoder<Packed<T>> {
    private static final long serialVersionUID = 1L;

    @Override
    void write(Packed<T> packed, DataOutputStream out) throws IOException {
      writeLong(packed.counts, out);
      writeLong(packed.bytes.length, out);
      out.write(packed.bytes);
    }

    @Override
    Packed<T> read(DataInputStream in) throws IOException {
      long counts = readLong(in);
      byte[] bytes = new byte[Math.toIntExact(readLong(in))];
      in.readFully(bytes);
      return new Packed<>(counts, bytes);
    }
  }

  /** Packs values by key. */
  static final class Packing<K, T> {
    private final Coder<T> coder;
    private final Map<K, Open> open = new LinkedHashMap<>();

    Packing(Coder<T> coder) {
      this.coder = coder;
    }

    private static final class Open {
      private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
      private long counts;
    }

    /**
     * Adds a value; hands on what there is of its key if that is much.
     *
     * @param counts what it counts
     */
    void add(K key, T value, long counts, BiConsumer<K, Packed<T>> out) {
      Open of = open.computeIfAbsent(key, k -> new Open());
      try {
        coder.encode(value, of.bytes);
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
      of.counts += counts;
      if (of.bytes.size() >= MOST_BYTES) {
        open.remove(key);
        out.accept(key, new Packed<>(of.counts, of.bytes.toByteArray()));
      }
    }

    /** Hands on all that is left. */
    void finish(BiConsumer<K, Packed<T>> out) {
      open.forEach((key, of) -> out.accept(key, new Packed<>(of.counts, of.bytes.toByteArray())));
      open.clear();
    }
  }
}
