package io.github.reshard.transforms;

import java.io.IOException;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.coders.IterableCoder;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.MapCoder;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.coders.VarLongCoder;
import org.apache.beam.sdk.state.BagState;
import org.apache.beam.sdk.state.StateSpec;
import org.apache.beam.sdk.state.StateSpecs;
import org.apache.beam.sdk.state.ValueState;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.util.CoderUtils;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;

/**
 * Brings together what has the same key. On bounded input that is a GroupByKey. On unbounded input
 * a group closes at once when all of it is there, which the plan tells: no window has to end and no
 * watermark to move, and nothing is remembered of a group that closed.
 *
 * <p>What waits lies under a small number of keys, whatever is grouped: runners keep something for
 * every key that they have met for ever (the DirectRunner a callback, for one).
 */
final class Gather<K, V>
    extends PTransform<PCollection<KV<Keyed<K>, V>>, PCollection<KV<Keyed<K>, Iterable<V>>>> {
  private static final long serialVersionUID = 1L;

  /** Of what a group that need not wait consists. */
  static final long ALONE = -1;

  private final Reshards reshards;
  private final Measure<K, V> measure;

  /** Tells when a group is whole. */
  interface Measure<K, V> extends Serializable {
    /** What the values of {@code key} count together, at least 1, or {@link #ALONE}. */
    long expected(PlannedReshard planned, K key);

    /** What a value counts. */
    long count(V value);
  }

  Gather(Reshards reshards, Measure<K, V> measure) {
    this.reshards = reshards;
    this.measure = measure;
  }

  @Override
  public PCollection<KV<Keyed<K>, Iterable<V>>> expand(PCollection<KV<Keyed<K>, V>> values) {
    if (values.isBounded() == PCollection.IsBounded.BOUNDED) {
      return values.apply(GroupByKey.create());
    }
    KvCoder<Keyed<K>, V> coder = (KvCoder<Keyed<K>, V>) values.getCoder();
    return values
        .apply("Slot", ParDo.of(new Slot<K, V>(coder.getKeyCoder())))
        .setCoder(KvCoder.of(VarIntCoder.of(), coder))
        .apply("UntilWhole", ParDo.of(new UntilWhole<>(reshards, measure, coder)))
        .setCoder(KvCoder.of(coder.getKeyCoder(), IterableCoder.of(coder.getValueCoder())));
  }

  private static final class Slot<K, V>
      extends DoFn<KV<Keyed<K>, V>, KV<Integer, KV<Keyed<K>, V>>> {
    private static final long serialVersionUID = 1L;
    private static final int SLOTS = 64;
    private final Coder<Keyed<K>> key;

    Slot(Coder<Keyed<K>> key) {
      this.key = key;
    }

    @ProcessElement
    public void process(
        @Element KV<Keyed<K>, V> value, OutputReceiver<KV<Integer, KV<Keyed<K>, V>>> out)
        throws IOException {
      byte[] bytes = CoderUtils.encodeToByteArray(key, value.getKey());
      out.output(KV.of(Math.floorMod(Arrays.hashCode(bytes), SLOTS), value));
    }
  }

  private static final class UntilWhole<K, V>
      extends DoFn<KV<Integer, KV<Keyed<K>, V>>, KV<Keyed<K>, Iterable<V>>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;
    private final Measure<K, V> measure;

    @StateId("waiting")
    private final StateSpec<BagState<KV<Keyed<K>, V>>> waitingSpec;

    @StateId("lacking")
    private final StateSpec<ValueState<Map<Keyed<K>, Long>>> lackingSpec;

    UntilWhole(Reshards reshards, Measure<K, V> measure, KvCoder<Keyed<K>, V> coder) {
      this.finder = new PlannedReshard.Finder(reshards);
      this.measure = measure;
      this.waitingSpec = StateSpecs.bag(coder);
      this.lackingSpec = StateSpecs.value(MapCoder.of(coder.getKeyCoder(), VarLongCoder.of()));
    }

    @ProcessElement
    public void process(
        @Element KV<Integer, KV<Keyed<K>, V>> element,
        @StateId("waiting") BagState<KV<Keyed<K>, V>> waiting,
        @StateId("lacking") ValueState<Map<Keyed<K>, Long>> lacking,
        OutputReceiver<KV<Keyed<K>, Iterable<V>>> out)
        throws IOException {
      KV<Keyed<K>, V> value = element.getValue();
      Keyed<K> key = value.getKey();
      PlannedReshard planned = finder.find(key.reshard());
      if (planned == null) {
        return;
      }
      Map<Keyed<K>, Long> before = lacking.read();
      Map<Keyed<K>, Long> left =
          before == null ? new LinkedHashMap<>() : new LinkedHashMap<>(before);
      boolean past =
          left.keySet().removeIf(other -> finder.reshards().isPast(other.reshard(), key.reshard()));
      Long lacked = left.get(key);
      long expected = lacked == null ? measure.expected(planned, key.item()) : lacked;
      if (expected == ALONE) {
        out.output(KV.of(key, List.of(value.getValue())));
        return;
      }
      long rest = expected - measure.count(value.getValue());
      if (rest < 0) {
        throw new IllegalStateException(
            "%s of %s has %d more than the plan says; the plan is wrong, or an element came twice"
                .formatted(key.item(), planned.plan().checkpoint(), -rest));
      }
      if (rest > 0) {
        left.put(key, rest);
      } else {
        left.remove(key);
      }
      if (rest == 0 || past) {
        List<V> whole = new ArrayList<>();
        List<KV<Keyed<K>, V>> others = new ArrayList<>();
        for (KV<Keyed<K>, V> one : waiting.read()) {
          if (rest == 0 && one.getKey().equals(key)) {
            whole.add(one.getValue());
          } else if (left.containsKey(one.getKey())) {
            others.add(one);
          }
        }
        waiting.clear();
        others.forEach(waiting::add);
        if (rest == 0) {
          whole.add(value.getValue());
          out.output(KV.of(key, whole));
        }
      }
      if (rest > 0) {
        waiting.add(value);
      }
      if (left.isEmpty()) {
        lacking.clear();
      } else {
        lacking.write(left);
      }
    }
  }
}
