package io.github.reshard.checkpoint.deepspeed;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Whether the numbers in names that were given to ranks are in the order of the ranks. */
public final class NumberedNames {
  private static final Pattern NUMBER = Pattern.compile("\\d{1,9}");

  private NumberedNames() {}

  /** The name with {@code *} for each number. */
  public static String template(String name) {
    return NUMBER.matcher(name).replaceAll("*");
  }

  /**
   * The first rank whose number is not the one that the order of the others gives it. Names that
   * tell no order have none: those that are all the same, differ in more than one number, or are
   * numbered within a node.
   *
   * @param names by rank
   */
  public static Optional<Integer> outOfOrder(SortedMap<Integer, String> names) {
    return outOfOrderNumbers(numbers(mostAlike(names)));
  }

  /** As {@link #outOfOrder}, of the numbers themselves. */
  public static Optional<Integer> outOfOrderNumbers(SortedMap<Integer, Integer> numbers) {
    if (numbers.size() < 2 || isWithinNodes(numbers)) {
      return Optional.empty();
    }
    int shift = shift(numbers);
    List<Integer> others = new ArrayList<>();
    numbers.forEach(
        (rank, number) -> {
          if (number - rank != shift) {
            others.add(rank);
          }
        });
    boolean mostAreInOrder = others.size() * 2 < numbers.size();
    return others.isEmpty() || (!mostAreInOrder && !isPermutation(numbers))
        ? Optional.empty()
        : Optional.of(others.get(0));
  }

  /** Whether every name has the number of its rank, or all are more or less by the same. */
  public static boolean tellsOrder(SortedMap<Integer, String> names) {
    SortedMap<Integer, String> alike = mostAlike(names);
    return names.size() > 1 && alike.size() == names.size() && isShifted(numbers(alike));
  }

  /** Whether all numbers are their rank, or more or less than it by the same. */
  public static boolean isShifted(SortedMap<Integer, Integer> numbers) {
    return !numbers.isEmpty()
        && numbers.entrySet().stream().map(e -> e.getValue() - e.getKey()).distinct().count() == 1;
  }

  private static SortedMap<Integer, String> mostAlike(SortedMap<Integer, String> names) {
    Map<String, SortedMap<Integer, String>> alike = new HashMap<>();
    names.forEach(
        (rank, name) ->
            alike.computeIfAbsent(template(name), k -> new TreeMap<>()).put(rank, name));
    SortedMap<Integer, String> most = new TreeMap<>();
    for (SortedMap<Integer, String> some : alike.values()) {
      most = some.size() > most.size() ? some : most;
    }
    return most;
  }

  /** The only number in which the names differ. */
  private static SortedMap<Integer, Integer> numbers(SortedMap<Integer, String> names) {
    SortedMap<Integer, List<Integer>> all = new TreeMap<>();
    names.forEach((rank, name) -> all.put(rank, numbersIn(name)));
    SortedMap<Integer, Integer> numbers = new TreeMap<>();
    int differing = 0;
    int count = all.isEmpty() ? 0 : all.get(all.firstKey()).size();
    for (int n = 0; n < count; n++) {
      int at = n;
      Set<Integer> values = new HashSet<>();
      all.values().forEach(list -> values.add(list.get(at)));
      if (values.size() > 1) {
        differing++;
        all.forEach((rank, list) -> numbers.put(rank, list.get(at)));
      }
    }
    return differing == 1 ? numbers : new TreeMap<>();
  }

  private static List<Integer> numbersIn(String name) {
    List<Integer> numbers = new ArrayList<>();
    Matcher m = NUMBER.matcher(name);
    while (m.find()) {
      numbers.add(Integer.parseInt(m.group()));
    }
    return numbers;
  }

  /** By how much most numbers are more than their rank. */
  private static int shift(SortedMap<Integer, Integer> numbers) {
    if (isPermutation(numbers)) {
      return numbers.values().stream().min(Integer::compare).orElseThrow() - numbers.firstKey();
    }
    Map<Integer, Integer> count = new TreeMap<>();
    numbers.forEach((rank, number) -> count.merge(number - rank, 1, Integer::sum));
    return count.entrySet().stream()
        .max(Map.Entry.comparingByValue())
        .map(Map.Entry::getKey)
        .orElseThrow();
  }

  /** Whether they are consecutive in some order, and so numbers of ranks. */
  private static boolean isPermutation(SortedMap<Integer, Integer> numbers) {
    Set<Integer> distinct = new HashSet<>(numbers.values());
    int least = numbers.values().stream().min(Integer::compare).orElseThrow();
    int most = numbers.values().stream().max(Integer::compare).orElseThrow();
    return distinct.size() == numbers.size() && most - least == numbers.size() - 1;
  }

  /**
   * Whether they are local ranks: 0, 1, 0, 1 for two nodes of two. With one rank a node they are
   * all the same.
   */
  public static boolean isWithinNodes(SortedMap<Integer, Integer> numbers) {
    int perNode = numbers.values().stream().max(Integer::compare).orElseThrow() + 1;
    return perNode >= 2
        && numbers.size() >= 2L * perNode
        && numbers.entrySet().stream().allMatch(e -> e.getValue() == e.getKey() % perNode);
  }
}
