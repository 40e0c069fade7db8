package io.github.reshard.checkpoint.parallel;

import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SortedMap;
import java.util.SortedSet;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.IntPredicate;

/**
 * What a checkpoint shows of the layers of a pipeline. Layers without parameters and buffers leave
 * no trace in it, so neither the number of layers is known nor where a tied layer stands a second
 * time.
 *
 * @param stages how many saved it
 * @param elements for each layer that has trained parameters of its own, how many elements these
 *     have; the layer is known by its number in {@code PipelineModule(layers=...)}
 * @param stageOf the stage that has each of these
 * @param files the layers that have a file of their own
 * @param tied the tied layers by their keys
 */
public record PipelineLayers(
    int stages,
    SortedMap<Integer, Long> elements,
    Map<Integer, Integer> stageOf,
    SortedSet<Integer> files,
    SortedMap<String, Tied> tied) {
  /** Layers without a trace that are tried at most behind the last one that is known. */
  private static final int MOST_FUNCTIONS = 24;

  /** Places for a tied layer that are tried at most. */
  private static final int MOST_PLACES = 12;

  /**
   * A layer that stands in more than one place (DeepSpeed 0.19.8, runtime/pipe/module.py, {@code
   * TiedLayerSpec}).
   *
   * @param elements of its trained parameters
   * @param stages those that have it
   * @param files the numbers of its layers that have a file: those that are used as they are
   */
  public record Tied(long elements, SortedSet<Integer> stages, SortedSet<Integer> files) {}

  /** That nothing says how the layers are divided; its message says what is missing. */
  public static final class Undecided extends Exception {
    private static final long serialVersionUID = 1L;

    Undecided(String message) {
      super(message);
    }
  }

  /**
   * Which stages have what.
   *
   * @param stages how many
   * @param stageOf the stage of each layer that is known, trained or not
   * @param tied for each stage the tied layers that it has, in the order in which it meets them
   */
  public record Division(
      int stages, SortedMap<Integer, Integer> stageOf, List<List<String>> tied) {}

  /**
   * All layers, one way that they may be.
   *
   * @param count how many there are
   * @param tied where each tied layer stands
   */
  private record Layers(int count, Map<String, SortedSet<Integer>> tied) {}

  /**
   * All in one stage.
   *
   * @throws Undecided if there are several tied layers and it is not known which comes first
   */
  public Division together(PipelineScript script) throws Undecided {
    SortedMap<Integer, Integer> of = new TreeMap<>();
    known().forEach(layer -> of.put(layer, 0));
    if (script.isWhole()) {
      requireFits(script, known().isEmpty() ? 0 : known().last() + 1);
      return new Division(1, of, List.of(inOrder(script.tied(), layer -> true)));
    }
    Map<String, SortedSet<Integer>> places = new HashMap<>();
    tied.forEach((key, one) -> places.put(key, one.files()));
    if (places.size() > 1 && places.values().stream().anyMatch(Set::isEmpty)) {
      throw new Undecided(
          "which of the tied layers %s comes first is not in the checkpoint"
              .formatted(tied.keySet()));
    }
    List<String> keys =
        tied.size() == 1 ? List.copyOf(tied.keySet()) : inOrder(places, layer -> true);
    return new Division(1, of, List.of(keys));
  }

  /** The keys of which a place counts, by the first that does. */
  private static List<String> inOrder(Map<String, SortedSet<Integer>> places, IntPredicate counts) {
    SortedMap<Integer, String> byPlace = new TreeMap<>();
    places.forEach(
        (key, layers) ->
            layers.stream()
                .filter(counts::test)
                .findFirst()
                .ifPresent(layer -> byPlace.put(layer, key)));
    return List.copyOf(byPlace.values());
  }

  /**
   * The stages that the user's words give.
   *
   * @param to how many
   * @param method where stages begin, by the number of layers and how many there are
   * @param target the same layers as the target's ranks have them, which may be other parts of them
   * @throws Undecided if they do not give the source's own stages, or not only these
   */
  public Division divided(int to, Method method, PipelineScript script, PipelineLayers target)
      throws Undecided {
    Set<Division> fitting = new LinkedHashSet<>();
    boolean reproduced = false;
    for (Layers layers : possible(script)) {
      if (!method.fits(layers.count())) {
        continue;
      }
      List<Long> weights = weights(layers);
      if (method.isChecked() && !isSource(method.bounds(weights, script, stages), layers)) {
        continue;
      }
      reproduced = true;
      fitting.add(division(method.bounds(target.weights(layers), script, to), layers));
    }
    if (!reproduced && !method.isChecked()) {
      throw new Undecided(
          "%s does not fit the checkpoint, whose last layer that is known is %s"
              .formatted(method.name(), known().isEmpty() ? "none" : known().last()));
    }
    if (!reproduced) {
      throw new Undecided(
          "%s does not give the %d stages that the checkpoint has: layers %s of stages %s"
              .formatted(
                  method.name(), stages, elements.keySet(), new TreeMap<>(stageOf).values()));
    }
    if (fitting.size() > 1) {
      throw new Undecided(
          "%s gives different stages, depending on layers that leave no trace in the checkpoint, such as functions and the second place of a tied layer"
              .formatted(method.name()));
    }
    return fitting.iterator().next();
  }

  /** How layers are divided. */
  public interface Method {
    /** What the user calls it. */
    String name();

    /** Whether there may be so many layers. */
    boolean fits(int layers);

    /** Whether it says how the source is divided, too. */
    boolean isChecked();

    /** The stages of layers of these weights. */
    StageBounds bounds(List<Long> weights, PipelineScript script, int stages);
  }

  private SortedSet<Integer> known() {
    SortedSet<Integer> known = new TreeSet<>(elements.keySet());
    known.addAll(files);
    return known;
  }

  /** All ways that the layers may be, as far as the checkpoint and the script tell. */
  private Collection<Layers> possible(PipelineScript script) throws Undecided {
    int least = known().isEmpty() ? 0 : known().last() + 1;
    List<Layers> possible = new ArrayList<>();
    if (script.isWhole()) {
      requireFits(script, least);
      return List.of(new Layers(script.layers().size(), script.tied()));
    }
    int from = script.count().orElse(least);
    int to = script.count().orElse(least + MOST_FUNCTIONS);
    if (from < least) {
      throw new Undecided(
          "--pipelineLayers says %d layers, the checkpoint has layer %d"
              .formatted(from, least - 1));
    }
    for (int count = from; count <= to; count++) {
      possible.addAll(tiedIn(count));
    }
    return possible;
  }

  private void requireFits(PipelineScript script, int least) throws Undecided {
    if (script.layers().size() < least) {
      throw new Undecided(
          "--pipelineLayers lists %d layers, the checkpoint has layer %d"
              .formatted(script.layers().size(), least - 1));
    }
    if (!script.tied().keySet().equals(tied.keySet())) {
      throw new Undecided(
          "--pipelineLayers has the tied layers %s, the checkpoint %s"
              .formatted(script.tied().keySet(), tied.keySet()));
    }
  }

  /** Where tied layers may stand if there are {@code count} layers. */
  private List<Layers> tiedIn(int count) throws Undecided {
    List<Map<String, SortedSet<Integer>>> all = new ArrayList<>();
    all.add(Map.of());
    List<Integer> free = new ArrayList<>();
    for (int layer = 0; layer < count; layer++) {
      if (!known().contains(layer)) {
        free.add(layer);
      }
    }
    for (Map.Entry<String, Tied> one : tied.entrySet()) {
      if (free.size() > MOST_PLACES) {
        // More than can be tried; a script tells.
        return List.of();
      }
      List<Map<String, SortedSet<Integer>>> next = new ArrayList<>();
      for (Map<String, SortedSet<Integer>> before : all) {
        for (int chosen = 0; chosen < 1 << free.size(); chosen++) {
          SortedSet<Integer> places = new TreeSet<>(one.getValue().files());
          for (int f = 0; f < free.size(); f++) {
            if (((chosen >> f) & 1) == 1) {
              places.add(free.get(f));
            }
          }
          if (places.size() > 1 && before.values().stream().noneMatch(p -> meets(p, places))) {
            Map<String, SortedSet<Integer>> with = new HashMap<>(before);
            with.put(one.getKey(), places);
            next.add(with);
          }
        }
      }
      all = next;
    }
    return all.stream().map(places -> new Layers(count, places)).toList();
  }

  private static boolean meets(Set<Integer> a, Set<Integer> b) {
    Set<Integer> both = new HashSet<>(a);
    both.retainAll(b);
    return !both.isEmpty();
  }

  /** The trained elements of every layer, as {@code _count_layer_params} counts them. */
  private List<Long> weights(Layers layers) {
    List<Long> weights = new ArrayList<>();
    for (int layer = 0; layer < layers.count(); layer++) {
      long own = elements.getOrDefault(layer, 0L);
      for (Map.Entry<String, SortedSet<Integer>> one : layers.tied().entrySet()) {
        own += one.getValue().contains(layer) ? tied.get(one.getKey()).elements() : 0;
      }
      weights.add(own);
    }
    return weights;
  }

  private boolean isSource(StageBounds bounds, Layers layers) {
    Division division = division(bounds, layers);
    for (int layer : elements.keySet()) {
      if (!stageOf.get(layer).equals(division.stageOf().get(layer))) {
        return false;
      }
    }
    for (int stage = 0; stage < stages; stage++) {
      int of = stage;
      Set<String> own = new HashSet<>();
      tied.forEach(
          (key, one) -> {
            if (one.stages().contains(of)) {
              own.add(key);
            }
          });
      if (!own.equals(Set.copyOf(division.tied().get(stage)))) {
        return false;
      }
    }
    return true;
  }

  private Division division(StageBounds bounds, Layers layers) {
    SortedMap<Integer, Integer> of = new TreeMap<>();
    known().forEach(layer -> of.put(layer, bounds.stageOf(layer)));
    List<List<String>> owned = new ArrayList<>();
    for (int stage = 0; stage < bounds.stages(); stage++) {
      int own = stage;
      owned.add(inOrder(layers.tied(), layer -> bounds.stageOf(layer) == own));
    }
    return new Division(bounds.stages(), of, owned);
  }
}
