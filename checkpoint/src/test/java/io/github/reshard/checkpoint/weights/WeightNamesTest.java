package io.github.reshard.checkpoint.weights;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class WeightNamesTest {
  /** The keys that PEFT 0.21.2's save_pretrained gives (run for Llama with LoRA and lm_head). */
  @ParameterizedTest
  @CsvSource({
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight,base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
    "base_model.model.lm_head.modules_to_save.default.weight,base_model.model.lm_head.weight",
    "base_model.model.emb.lora_embedding_A.default,base_model.model.emb.lora_embedding_A",
    "base_model.model.q.lora_magnitude_vector.default.weight,base_model.model.q.lora_magnitude_vector.weight"
  })
  void anAdaptersNamesAreThoseOfPeft(String name, String saved) {
    assertThat(WeightNames.of("ckpt", List.of(name), Optional.empty(), true))
        .containsEntry(name, saved);
  }

  @Test
  void whatHoldsMoreThanAnAdapterIsNone() {
    String lora = "m.q.lora_A.default.weight";

    assertThat(WeightNames.areAdapter(List.of(lora, "m.h.modules_to_save.default.weight")))
        .isTrue();
    assertThat(WeightNames.areAdapter(List.of(lora, "m.q.base_layer.weight"))).isFalse();
    assertThat(WeightNames.areAdapter(List.of("m.h.modules_to_save.default.weight"))).isFalse();
    assertThat(WeightNames.areAdapter(List.of())).isFalse();
  }

  @Test
  void twoAdaptersAreNotMixed() {
    assertThatThrownBy(
            () ->
                WeightNames.of(
                    "ckpt",
                    List.of("q.lora_A.one.weight", "v.lora_A.two.weight"),
                    Optional.empty(),
                    true))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("the adapters one and two");
  }

  @Test
  void aPrefixIsTakenOffTheNamesThatHaveIt() {
    assertThat(
            WeightNames.of(
                "ckpt", List.of("_orig_mod.a", "loss.b"), Optional.of("_orig_mod."), false))
        .containsEntry("_orig_mod.a", "a")
        .containsEntry("loss.b", "loss.b");
    assertThatThrownBy(() -> WeightNames.of("ckpt", List.of("p.a", "a"), Optional.of("p."), false))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("p.a and a would both be called a");
    assertThatThrownBy(() -> WeightNames.of("ckpt", List.of("p."), Optional.of("p."), false))
        .hasMessageContaining("leaves nothing of the name p.");
    assertThatThrownBy(() -> WeightNames.of("ckpt", List.of("a"), Optional.of("p."), false))
        .hasMessageContaining("no name begins with --stripPrefix=p.");
  }

  @ParameterizedTest
  @CsvSource({
    "*,a.b,true",
    "a.*,a.b,true",
    "a.*,ab,false",
    "?.b,a.b,true",
    "'x*, *.b',a.b,true",
    "(.*),a.b,false",
    "b,a.b,false"
  })
  void patternsKnowAnyTextAndAnyCharacter(String pattern, String name, boolean matches) {
    assertThat(WeightNames.matches(pattern, name)).isEqualTo(matches);
  }
}
