package io.github.reshard.transforms;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.Size;
import org.apache.beam.sdk.coders.StringUtf8Coder;
import org.apache.beam.sdk.util.CoderUtils;
import org.junit.jupiter.api.Test;

class PackedTest {
  private final Map<Integer, List<Packed<String>>> handedOn = new HashMap<>();

  private void out(Integer key, Packed<String> packed) {
    handedOn.computeIfAbsent(key, k -> new ArrayList<>()).add(packed);
  }

  private List<String> values(int key) {
    List<String> values = new ArrayList<>();
    for (Packed<String> packed : handedOn.getOrDefault(key, List.of())) {
      packed.forEach(StringUtf8Coder.of(), values::add);
    }
    return values;
  }

  /** Every value comes out once, under its key, in order, and so does what it counts. */
  @Property
  void nothingIsLostOrMixed(@ForAll @Size(max = 50) List<@IntRange(max = 3) Integer> keys)
      throws Exception {
    handedOn.clear();
    Packed.Packing<Integer, String> packing = new Packed.Packing<>(StringUtf8Coder.of());
    Map<Integer, List<String>> expected = new HashMap<>();
    Map<Integer, Long> counts = new HashMap<>();
    for (int i = 0; i < keys.size(); i++) {
      packing.add(keys.get(i), "value " + i, i, this::out);
      expected.computeIfAbsent(keys.get(i), k -> new ArrayList<>()).add("value " + i);
      counts.merge(keys.get(i), (long) i, Long::sum);
    }
    packing.finish(this::out);

    assertThat(handedOn.keySet()).isEqualTo(expected.keySet());
    for (int key : expected.keySet()) {
      assertThat(values(key)).isEqualTo(expected.get(key));
      assertThat(handedOn.get(key)).hasSize(1);
      Packed<String> packed = handedOn.get(key).get(0);
      assertThat(packed.counts()).isEqualTo(counts.get(key));
      byte[] travelling = CoderUtils.encodeToByteArray(Packed.<String>coder(), packed);
      assertThat(CoderUtils.decodeFromByteArray(Packed.<String>coder(), travelling))
          .isEqualTo(packed);
    }
  }

  @Test
  void muchOfAKeyDoesNotWait() {
    Packed.Packing<Integer, String> packing = new Packed.Packing<>(StringUtf8Coder.of());
    String long100k = "x".repeat(100_000);
    for (int i = 0; i < 3; i++) {
      packing.add(7, long100k, 1, this::out);
    }
    assertThat(handedOn.get(7)).hasSize(1);
    packing.add(7, "the last", 1, this::out);
    packing.finish(this::out);
    packing.finish(this::out);

    assertThat(values(7)).containsExactly(long100k, long100k, long100k, "the last");
    assertThat(handedOn.get(7).stream().mapToLong(Packed::counts)).containsExactly(3L, 1L);
  }
}
