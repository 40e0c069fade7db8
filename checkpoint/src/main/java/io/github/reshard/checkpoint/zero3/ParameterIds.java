package io.github.reshard.checkpoint.zero3;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The numbers that ZeRO-3 gives parameters when it partitions them, of which every flat sub-group
 * carries the first and the last as a label (DeepSpeed 0.19.6, runtime/zero/partition_parameters.py
 * and stage3.py, {@code ds_id}). Nothing reads the label; the numbers are not recorded as such, so
 * they are guessed from the order of the module and kept to what the source's labels show.
 */
public final class ParameterIds {
  private static final Pattern LABEL = Pattern.compile("(\\d{1,9})_(\\d{1,9})");

  private ParameterIds() {}

  /**
   * The labels of the target's sub-groups, or none if those of the source are not of that form.
   *
   * @param names the module's parameters in its order, tied ones too
   * @param tied the names that stand for another parameter
   * @param labels the labels of the source's sub-groups
   */
  public static List<String> labels(
      List<String> names,
      Set<String> tied,
      ShardedLayout source,
      List<String> labels,
      ShardedLayout target) {
    Map<String, Integer> known = new LinkedHashMap<>();
    for (int b = 0; b < labels.size(); b++) {
      Matcher m = LABEL.matcher(labels.get(b));
      if (!m.matches()) {
        return List.of();
      }
      known.put(name(source, source.firstOf(b)), Integer.parseInt(m.group(1)));
      known.put(name(source, source.firstOf(b + 1) - 1), Integer.parseInt(m.group(2)));
    }
    if (known.isEmpty()) {
      return List.of();
    }
    Map<String, Integer> inOrder =
        numbered(names.stream().filter(name -> !tied.contains(name)).toList());
    Map<String, Integer> ids = shifted(inOrder, known);
    if (!ids.entrySet().containsAll(known.entrySet())) {
      List<String> childrenFirst = new ArrayList<>();
      addChildrenFirst(names, 0, childrenFirst);
      Map<String, Integer> constructed = shifted(numbered(childrenFirst), known);
      if (constructed.entrySet().containsAll(known.entrySet())) {
        ids = constructed;
      }
    }
    ids.putAll(known);
    List<String> targetLabels = new ArrayList<>();
    for (int b = 0; b < target.buckets(); b++) {
      Integer first = ids.get(name(target, target.firstOf(b)));
      Integer last = ids.get(name(target, target.firstOf(b + 1) - 1));
      if (first == null || last == null) {
        return List.of();
      }
      targetLabels.add(first + "_" + last);
    }
    return targetLabels;
  }

  /**
   * The labels of sub-groups of a run that was not at ZeRO-3 before: numbers in the order of {@code
   * module.parameters()}, frozen ones included.
   *
   * @param names the module's parameters in its order, tied ones too
   * @param tied the names that stand for another parameter
   */
  public static List<String> labels(List<String> names, Set<String> tied, ShardedLayout target) {
    Map<String, Integer> ids =
        numbered(names.stream().filter(name -> !tied.contains(name)).toList());
    List<String> labels = new ArrayList<>();
    for (int b = 0; b < target.buckets(); b++) {
      // A parameter that is not in the module has no number; nothing reads it.
      labels.add(
          ids.getOrDefault(name(target, target.firstOf(b)), 0)
              + "_"
              + ids.getOrDefault(name(target, target.firstOf(b + 1) - 1), 0));
    }
    return labels;
  }

  private static String name(ShardedLayout layout, int parameter) {
    return layout.parameters().get(parameter).name();
  }

  private static Map<String, Integer> numbered(List<String> names) {
    Map<String, Integer> numbers = new HashMap<>();
    for (int i = 0; i < names.size(); i++) {
      numbers.put(names.get(i), i);
    }
    return numbers;
  }

  /** Moved by one number, because a second engine in a process counts on. */
  private static Map<String, Integer> shifted(
      Map<String, Integer> numbers, Map<String, Integer> known) {
    Map.Entry<String, Integer> first = known.entrySet().iterator().next();
    int shift = first.getValue() - numbers.getOrDefault(first.getKey(), 0);
    Map<String, Integer> shifted = new HashMap<>();
    numbers.forEach((name, number) -> shifted.put(name, number + shift));
    return shifted;
  }

  /**
   * The order under {@code zero.Init}: a module's own parameters when its constructor ends, after
   * those of its children.
   *
   * @param names all with the same first {@code from} characters
   */
  private static void addChildrenFirst(List<String> names, int from, List<String> out) {
    Map<String, List<String>> children = new LinkedHashMap<>();
    List<String> own = new ArrayList<>();
    for (String name : names) {
      int dot = name.indexOf('.', from);
      if (dot < 0) {
        own.add(name);
      } else {
        children.computeIfAbsent(name.substring(from, dot), k -> new ArrayList<>()).add(name);
      }
    }
    children.forEach((child, of) -> addChildrenFirst(of, from + child.length() + 1, out));
    out.addAll(own);
  }
}
