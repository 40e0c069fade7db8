package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.json.Json;
import io.github.reshard.checkpoint.json.JsonAsPython;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.OptionalInt;
import java.util.Set;

/**
 * Rules that a user gives for a checkpoint that says nothing: the keys of {@code
 * universal_checkpoint_info}, one more for what is cut by rows of the full tensor, and which
 * program cut it. Every parameter has to be named.
 *
 * @param rules how parameters are cut
 * @param isAutoTp whether AutoTP cuts them, else Megatron
 * @param heads {@code kv_heads}, if it is there
 * @param vocabularyMultiple {@code make_vocab_size_divisible_by}, if it is there
 */
public record RuleFile(
    TensorRules rules, boolean isAutoTp, OptionalInt heads, OptionalInt vocabularyMultiple) {
  /** The names of those that come with the program. */
  public static final List<String> NAMES = List.of("llama", "opt", "gpt-neox", "bloom");

  private static final String CUT_BY = "cut_by";
  private static final String HEADS = "kv_heads";
  private static final String MULTIPLE = "make_vocab_size_divisible_by";
  private static final Set<String> KEYS =
      Set.of(
          CUT_BY,
          HEADS,
          MULTIPLE,
          TensorRules.REPLICATED,
          TensorRules.AVERAGED,
          TensorRules.COLUMNS,
          TensorRules.ROWS,
          TensorRules.PAIRS,
          TensorRules.VOCABULARY,
          TensorRules.VOCABULARY_ROWS,
          TensorRules.FUSED,
          TensorRules.FUSED_WIDTHS);

  /** One that comes with the program, see {@link #NAMES}. */
  public static RuleFile named(String name) {
    String file = "rules/" + name + ".json";
    try (InputStream in = RuleFile.class.getResourceAsStream(file)) {
      if (in == null) {
        throw new IllegalArgumentException("no rules are called " + name);
      }
      return read(name + ".json", ByteBuffer.wrap(in.readAllBytes()));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /**
   * Reads one.
   *
   * @param path for messages
   * @throws RefusedException if it is no such file
   */
  public static RuleFile read(String path, ByteBuffer json) {
    PickledValue root = PickledValue.root(path, JsonAsPython.of(Json.parse(path, json)));
    for (PickledValue.Entry entry : root.children()) {
      if (!KEYS.contains(entry.key())) {
        throw entry
            .value()
            .refused("no such key; there are %s.".formatted(KEYS.stream().sorted().toList()));
      }
    }
    PickledValue by = root.get(CUT_BY);
    if (!Set.of("autotp", "megatron").contains(by.asString())) {
      throw by.refused("expected autotp or megatron, found %s.".formatted(by.describe()));
    }
    return new RuleFile(
        TensorRules.ofFile(root),
        by.asString().equals("autotp"),
        number(root, HEADS, 0),
        number(root, MULTIPLE, 1));
  }

  private static OptionalInt number(PickledValue root, String key, int least) {
    return root.findPresent(key)
        .map(
            value -> {
              if (value.asInt() < least) {
                throw value.refused(
                    "expected at least %d, found %d.".formatted(least, value.asInt()));
              }
              return OptionalInt.of(value.asInt());
            })
        .orElse(OptionalInt.empty());
  }
}
