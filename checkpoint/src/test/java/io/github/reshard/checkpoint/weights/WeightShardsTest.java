package io.github.reshard.checkpoint.weights;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.json.Json;
import io.github.reshard.checkpoint.safetensors.SafetensorsLayout.Tensor;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.testing.Corpus;
import java.io.IOException;
import java.math.BigDecimal;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.Size;
import org.junit.jupiter.api.Test;

class WeightShardsTest {
  private static List<Tensor> ofSizes(List<?> sizes) {
    List<Tensor> tensors = new ArrayList<>();
    for (Object size : sizes) {
      tensors.add(
          new Tensor("t" + tensors.size(), DType.UINT8, List.of(((Number) size).longValue())));
    }
    return tensors;
  }

  /** The indexes of testdata/safetensors/shards.json are those of huggingface_hub 0.36.2. */
  @Test
  void tensorsAreSplitAsHuggingFaceDoes() throws IOException {
    Path golden = Corpus.ROOT.resolveSibling("safetensors").resolve("shards.json");
    List<?> cases =
        (List<?>) Json.parse("shards.json", ByteBuffer.wrap(Files.readAllBytes(golden)));

    assertThat(cases).hasSize(12);
    for (Object item : cases) {
      Map<?, ?> split = (Map<?, ?>) item;
      long limit = ((BigDecimal) split.get("limit")).longValueExact();
      WeightShards shards = WeightShards.of("model", ofSizes((List<?>) split.get("sizes")), limit);
      assertThat(new String(shards.index(), StandardCharsets.UTF_8)).isEqualTo(split.get("index"));
    }
  }

  @Property(tries = 200)
  void everyTensorIsInOneFileWhichIsNoLargerThanAsked(
      @ForAll @Size(max = 20) List<@IntRange(max = 50) Integer> sizes,
      @ForAll @IntRange(min = 1, max = 60) int most) {
    WeightShards shards = WeightShards.of("model", ofSizes(sizes), most);

    List<Tensor> all = new ArrayList<>();
    shards
        .files()
        .values()
        .forEach(
            file -> {
              all.addAll(file);
              assertThat(file.size() == 1 || file.stream().mapToLong(Tensor::bytes).sum() <= most)
                  .isTrue();
            });
    assertThat(all).containsExactlyInAnyOrderElementsOf(ofSizes(sizes));
    assertThat(shards.needIndex()).isEqualTo(shards.files().size() > 1);
  }
}
