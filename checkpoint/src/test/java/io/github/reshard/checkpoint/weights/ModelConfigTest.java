package io.github.reshard.checkpoint.weights;

import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ModelConfigTest {
  private static final String LLAMA = "model.embed_tokens.weight";
  private static final String HEAD = "lm_head.weight";

  @TempDir Path directory;

  private void check(String config, List<String> names, Map<String, String> ties)
      throws IOException {
    Files.writeString(directory.resolve("config.json"), config);
    LocalSourceStore store = new LocalSourceStore();
    ModelConfig.read(store, store.list(directory.toString()).files())
        .requireTied("ckpt", names, ties);
  }

  @Test
  void whatFromPretrainedWouldDropIsRefused() {
    assertThatThrownBy(
            () -> check("{\"tie_word_embeddings\": true}", List.of(LLAMA, HEAD), Map.of()))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("config.json")
        .hasMessageContaining("put the embedding in its place");
  }

  @Test
  void whatFromPretrainedWouldMakeUpIsRefused() {
    assertThatThrownBy(
            () -> check("{\"tie_word_embeddings\": false}", List.of(LLAMA), Map.of(HEAD, LLAMA)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("lm_head.weight is tied to model.embed_tokens.weight");
  }

  @Test
  void whatAgreesOrIsNotSaidIsTaken() {
    assertThatCode(
            () -> {
              check("{\"tie_word_embeddings\": true}", List.of(LLAMA), Map.of(HEAD, LLAMA));
              check("{\"tie_word_embeddings\": false}", List.of(LLAMA, HEAD), Map.of());
              check("{}", List.of(LLAMA, HEAD), Map.of());
              check("{\"tie_word_embeddings\": null}", List.of(LLAMA), Map.of(HEAD, LLAMA));
            })
        .doesNotThrowAnyException();
  }

  @Test
  void whatIsNoConfigurationIsRefused() {
    assertThatThrownBy(() -> check("[]", List.of(), Map.of()))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("expected a JSON object");
    assertThatThrownBy(() -> check("{", List.of(), Map.of()))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("ends too early");
  }
}
