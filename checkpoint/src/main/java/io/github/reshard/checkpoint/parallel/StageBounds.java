package io.github.reshard.checkpoint.parallel;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.regex.Pattern;

/**
 * Which layers of a pipeline each stage has, as DeepSpeed divides them (DeepSpeed 0.13.1 to 0.19.8,
 * runtime/pipe/module.py, {@code _partition_layers}; runtime/utils.py). Before that it divided them
 * otherwise.
 *
 * @param parts the first layer of each stage, and the number of layers at the end: {@code
 *     PipelineModule.parts}
 */
public record StageBounds(List<Integer> parts) {
  /**
   * @throws IllegalArgumentException if they do not begin at 0 or are not in order
   */
  public StageBounds {
    parts = List.copyOf(parts);
    if (parts.size() < 2 || parts.get(0) != 0) {
      throw new IllegalArgumentException("stages begin at layer 0, and end: " + parts);
    }
    for (int i = 1; i < parts.size(); i++) {
      if (parts.get(i) < parts.get(i - 1)) {
        throw new IllegalArgumentException("stages are in the order of their layers: " + parts);
      }
    }
  }

  /** How many stages there are. */
  public int stages() {
    return parts.size() - 1;
  }

  /** How many layers there are. */
  public int layers() {
    return parts.get(stages());
  }

  /**
   * The stage that has {@code layer}.
   *
   * @return -1 if there is no such layer
   */
  public int stageOf(int layer) {
    for (int stage = 0; stage < stages(); stage++) {
      if (parts.get(stage) <= layer && layer < parts.get(stage + 1)) {
        return stage;
      }
    }
    return -1;
  }

  /** {@code partition_method='uniform'}: as many layers on each stage. */
  public static StageBounds uniform(int layers, int stages) {
    List<Integer> parts = new ArrayList<>();
    if (layers <= stages) {
      for (int stage = 0; stage <= stages; stage++) {
        parts.add(Math.min(stage, layers));
      }
      return new StageBounds(parts);
    }
    int each = layers / stages;
    int more = layers - each * stages;
    for (int stage = 0; stage <= stages; stage++) {
      parts.add(stage * each + Math.min(stage, more));
    }
    return new StageBounds(parts);
  }

  /**
   * The division whose heaviest and lightest stages differ least ({@code partition_balanced}, which
   * tries them all and takes the last of the best).
   *
   * @param weights of the layers: how many elements are trained ({@code 'parameters'}), or whether
   *     a class is counted ({@code 'type:REGEX'})
   */
  public static StageBounds balanced(List<Long> weights, int stages) {
    int layers = weights.size();
    if (layers <= stages) {
      return uniform(layers, stages);
    }
    double[][] most = filled(layers, stages);
    double[][] least = filled(layers, stages);
    double[][] cost = filled(layers, stages);
    int[][] last = new int[layers + 1][stages + 1];
    double[] sum = new double[layers + 1];
    for (int layer = 0; layer < layers; layer++) {
      sum[layer + 1] = sum[layer] + weights.get(layer);
    }
    most[0][0] = 0;
    cost[0][0] = 0;
    for (int i = 1; i <= layers; i++) {
      for (int j = 1; j <= Math.min(i, stages); j++) {
        for (int k = 0; k < i; k++) {
          double own = sum[i] - sum[k];
          double heaviest = Math.max(most[k][j - 1], own);
          double lightest = Math.min(least[k][j - 1], own);
          if (cost[i][j] >= heaviest - lightest) {
            cost[i][j] = heaviest - lightest;
            most[i][j] = heaviest;
            least[i][j] = lightest;
            last[i][j] = k;
          }
        }
      }
    }
    List<Integer> parts = new ArrayList<>(List.of(layers));
    for (int stage = stages; stage > 0; stage--) {
      parts.add(last[parts.get(parts.size() - 1)][stage]);
    }
    Collections.reverse(parts);
    return new StageBounds(parts);
  }

  private static double[][] filled(int layers, int stages) {
    double[][] values = new double[layers + 1][stages + 1];
    for (double[] row : values) {
      Arrays.fill(row, Double.POSITIVE_INFINITY);
    }
    return values;
  }

  /**
   * {@code partition_method='type:REGEX'}: layers whose class matches count, in upper or lower
   * case.
   *
   * @param classes the class of each layer, or an empty text where it is a function
   * @throws java.util.regex.PatternSyntaxException if it is none
   */
  public static StageBounds ofType(List<String> classes, String regex, int stages) {
    // The whole method is made lower case before it is looked at, \D as well.
    Pattern pattern =
        Pattern.compile(regex.toLowerCase(java.util.Locale.ROOT), Pattern.CASE_INSENSITIVE);
    return balanced(
        classes.stream()
            .map(name -> !name.isEmpty() && pattern.matcher(name).find() ? 1L : 0L)
            .toList(),
        stages);
  }
}
