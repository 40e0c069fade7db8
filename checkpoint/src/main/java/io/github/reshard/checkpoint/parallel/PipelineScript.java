package io.github.reshard.checkpoint.parallel;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.SortedSet;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * What a user says of {@code PipelineModule(layers=...)}: nothing, how many layers there are, or
 * the class of each.
 *
 * @param count how many layers, if that is known
 * @param layers the class of each layer, empty for a function; none if they were not listed
 * @param tied where each tied layer stands, by its key
 */
public record PipelineScript(
    OptionalInt count, List<String> layers, Map<String, SortedSet<Integer>> tied) {
  /** Nothing is said. */
  public static final PipelineScript NOT_SAID =
      new PipelineScript(OptionalInt.empty(), List.of(), Map.of());

  private static final Pattern COUNT = Pattern.compile("\\d{1,6}");
  private static final Pattern LAYER =
      Pattern.compile("(?:([^=,*]+)=)?([A-Za-z_]\\w*)?(?:\\*(\\d{1,4}))?");

  public PipelineScript {
    layers = List.copyOf(layers);
    tied = Map.copyOf(tied);
  }

  /** Whether every layer is listed. */
  public boolean isWhole() {
    return !layers.isEmpty();
  }

  /**
   * Reads {@code --pipelineLayers}: a number, or the layers in order, separated by commas, each a
   * class such as {@code Block}, {@code Block*24}, {@code KEY=Embedding} where it is tied, or
   * {@code lambda} for a function.
   *
   * @throws IllegalArgumentException if it is neither
   */
  public static PipelineScript parse(String text) {
    if (COUNT.matcher(text).matches()) {
      return new PipelineScript(OptionalInt.of(Integer.parseInt(text)), List.of(), Map.of());
    }
    List<String> layers = new ArrayList<>();
    Map<String, SortedSet<Integer>> tied = new HashMap<>();
    for (String item : text.split(",", -1)) {
      Matcher layer = LAYER.matcher(item.strip());
      if (!layer.matches() || layer.group(2) == null) {
        throw new IllegalArgumentException(
            "'%s' is no layer such as Block, Block*24, KEY=Embedding or lambda".formatted(item));
      }
      int times = layer.group(3) == null ? 1 : Integer.parseInt(layer.group(3));
      for (int i = 0; i < times; i++) {
        if (layer.group(1) != null) {
          tied.computeIfAbsent(layer.group(1), key -> new TreeSet<>()).add(layers.size());
        }
        layers.add(layer.group(2).equals("lambda") ? "" : layer.group(2));
      }
    }
    return new PipelineScript(OptionalInt.of(layers.size()), layers, tied);
  }
}
