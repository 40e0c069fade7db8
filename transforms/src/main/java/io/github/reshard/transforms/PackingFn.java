package io.github.reshard.transforms;

import java.io.IOException;
import java.util.List;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.transforms.windowing.PaneInfo;
import org.apache.beam.sdk.values.KV;
import org.joda.time.Instant;

/**
 * Packs what a bundle has for each key. Where elements have windows, those of one are packed
 * together, and what is packed has the time of the first of them.
 */
abstract class PackingFn<E, K, T> extends DoFn<E, KV<K, Packed<T>>> {
  private static final long serialVersionUID = 1L;
  private final Coder<T> coder;
  private transient Packed.Packing<K, T> packing;
  private transient BoundedWindow window;
  private transient Instant timestamp;

  /** Takes the values of an element. */
  interface Into<K, T> {
    /**
     * Adds one.
     *
     * @param counts what it counts, see {@link Gather.Measure}
     */
    void add(K key, T value, long counts);
  }

  /**
   * @param coder of the values
   */
  PackingFn(Coder<T> coder) {
    this.coder = coder;
  }

  /** Gives the values of {@code element}, each with its key. */
  abstract void pack(E element, Into<K, T> into) throws IOException;

  @StartBundle
  public void startBundle() {
    packing = new Packed.Packing<>(coder);
    window = null;
  }

  @ProcessElement
  public void process(
      @Element E element,
      @Timestamp Instant time,
      BoundedWindow of,
      OutputReceiver<KV<K, Packed<T>>> out)
      throws IOException {
    if (!of.equals(window)) {
      Instant before = timestamp;
      BoundedWindow last = window;
      packing.finish(
          (key, packed) ->
              out.outputWindowedValue(
                  KV.of(key, packed), before, List.of(last), PaneInfo.NO_FIRING));
      window = of;
      timestamp = time;
    }
    pack(
        element,
        (key, value, counts) ->
            packing.add(key, value, counts, (k, packed) -> out.output(KV.of(k, packed))));
  }

  @FinishBundle
  public void finishBundle(FinishBundleContext context) {
    packing.finish((key, packed) -> context.output(KV.of(key, packed), timestamp, window));
  }
}
