package io.github.reshard.checkpoint.torch;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.LongRange;
import net.jqwik.api.constraints.Size;
import org.junit.jupiter.api.Test;

class TorchFileLayoutTest {
  @Property(tries = 300)
  void segmentsAndPayloadsCoverTheFileExactly(
      @ForAll @Size(max = 20) List<@LongRange(max = 6_000_000_000L) Long> sizes,
      @ForAll byte[] pickle) {
    List<StorageSize> storages = new ArrayList<>();
    Map<String, Integer> crcs = new HashMap<>();
    for (int i = 0; i < sizes.size(); i++) {
      storages.add(new StorageSize(Integer.toString(i), sizes.get(i)));
      crcs.put(Integer.toString(i), i);
    }
    TorchFileLayout layout =
        TorchFileLayout.plan(
            ContainerStyle.PLAIN,
            "zero_pp_rank_0",
            pickle,
            storages,
            TorchFileLayout.serializationId(pickle, storages));

    TreeMap<Long, Long> ends = new TreeMap<>();
    for (StorageSize storage : storages) {
      long at = layout.payloadOffset(storage.key());
      assertThat(at % 64).isZero();
      if (storage.bytes() > 0) {
        ends.put(at, at + storage.bytes());
      }
    }
    for (ByteSegment segment : layout.segments(crcs)) {
      assertThat(ends.put(segment.offset(), segment.end())).isNull();
    }
    long covered = 0;
    for (Map.Entry<Long, Long> range : ends.entrySet()) {
      assertThat(range.getKey()).isEqualTo(covered);
      covered = range.getValue();
    }
    assertThat(covered).isEqualTo(layout.totalBytes());
  }

  @Test
  void storagesLieInTheOrderOfTheirKeysAsText() {
    List<StorageSize> storages = new ArrayList<>();
    for (int i = 0; i < 11; i++) {
      storages.add(new StorageSize(Integer.toString(i), 1));
    }
    TorchFileLayout layout =
        TorchFileLayout.plan(ContainerStyle.PLAIN, "a", new byte[1], storages, new byte[40]);

    assertThat(layout.payloadOffset("10"))
        .isGreaterThan(layout.payloadOffset("1"))
        .isLessThan(layout.payloadOffset("2"));
  }

  @Test
  void theSerializationIdIs40DigitsOfTheContent() {
    List<StorageSize> storages = List.of(new StorageSize("0", 1));
    byte[] id = TorchFileLayout.serializationId(new byte[] {1}, storages);

    assertThat(new String(id, StandardCharsets.US_ASCII)).matches("[0-9]{40}");
    assertThat(TorchFileLayout.serializationId(new byte[] {1}, storages)).isEqualTo(id);
    assertThat(TorchFileLayout.serializationId(new byte[] {2}, storages)).isNotEqualTo(id);
  }

  @Test
  void aStorageTwiceOrUnknownIsAMistakeOfTheCaller() {
    StorageSize storage = new StorageSize("0", 1);
    assertThatThrownBy(
            () ->
                TorchFileLayout.plan(
                    ContainerStyle.PLAIN,
                    "a",
                    new byte[1],
                    List.of(storage, storage),
                    new byte[40]))
        .isInstanceOf(IllegalArgumentException.class);
    assertThatThrownBy(
            () ->
                TorchFileLayout.plan(
                        ContainerStyle.PLAIN, "a", new byte[1], List.of(storage), new byte[40])
                    .segments(Map.of()))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("no CRC for storage '0'");
  }
}
