package io.github.reshard.transforms;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.Serializable;
import java.util.List;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.coders.StringUtf8Coder;
import org.apache.beam.sdk.coders.StructuredCoder;

/**
 * Something of a reshard; a graph may hold elements of many.
 *
 * @param reshard the key of the {@link Reshard}
 * @param item what it is
 */
public record Keyed<K>(String reshard, K item) implements Serializable {
  /** How it travels, given how {@code item} does. */
  static <K> Coder<Keyed<K>> coder(Coder<K> item) {
    return new KeyedCoder<>(item);
  }

  private static final class KeyedCoder<K> extends StructuredCoder<Keyed<K>> {
    private static final long serialVersionUID = 1L;
    private final Coder<K> item;

    KeyedCoder(Coder<K> item) {
      this.item = item;
    }

    /** The item first: runners hand elements out by their first bytes. */
    @Override
    public void encode(Keyed<K> value, OutputStream out) throws IOException {
      item.encode(value.item(), out);
      StringUtf8Coder.of().encode(value.reshard(), out);
    }

    /** Keys are few and in many elements at a time. */
    @Override
    public Keyed<K> decode(InputStream in) throws IOException {
      K decoded = item.decode(in);
      return new Keyed<>(StringUtf8Coder.of().decode(in).intern(), decoded);
    }

    @Override
    public List<? extends Coder<?>> getCoderArguments() {
      return List.of(item);
    }

    @Override
    public void verifyDeterministic() throws NonDeterministicException {
      item.verifyDeterministic();
    }

    @Override
    public boolean consistentWithEquals() {
      return item.consistentWithEquals();
    }
  }
}
