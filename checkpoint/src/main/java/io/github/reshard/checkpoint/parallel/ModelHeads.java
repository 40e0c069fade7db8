package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.List;
import java.util.Optional;

/**
 * How many key-value heads AutoTP sees in a model's {@code config.json} (DeepSpeed 0.19.8,
 * module_inject/tp_shard.py, {@code AutoTPMeta.from_model_config}).
 */
public final class ModelHeads {
  /**
   * {@code _KV_HEAD_ATTRS}, in the order in which they are asked for. {@code n_head} is what {@code
   * num_attention_heads} is called in the files of GPT-2 and BLOOM (Transformers 4.57, {@code
   * attribute_map}).
   */
  private static final List<String> KEYS =
      List.of(
          "num_key_value_heads",
          "num_kv_heads",
          "multi_query_group_num",
          "n_head_kv",
          "kv_n_heads",
          "num_attention_heads",
          "n_head",
          "n_heads",
          "attention_heads");

  private ModelHeads() {}

  /**
   * What the configuration says; {@link Division.Heads#UNKNOWN} if it says nothing of heads.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if that is no number of heads
   */
  public static Division.Heads of(PickledValue config) {
    PickledValue model =
        config.findPresent("text_config").filter(PickledValue::isDict).orElse(config);
    for (String key : KEYS) {
      Optional<PickledValue> heads = model.findPresent(key);
      if (heads.isPresent()) {
        if (heads.get().asInt() < 1) {
          throw heads.get().refused("expected how many heads there are.");
        }
        return Division.Heads.of(heads.get().asInt());
      }
    }
    return Division.Heads.UNKNOWN;
  }
}
