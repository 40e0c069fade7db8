package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.parallel.ExpertTarget;
import io.github.reshard.checkpoint.state.Parameter;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.IntPredicate;
import java.util.stream.IntStream;

/**
 * The param groups of experts where they are divided among another number of expert-parallel ranks.
 * Each rank has as many experts fewer or more, numbered from 0 within the rank, and the groups are
 * filled anew as DeepSpeed fills them: parameter after parameter until {@code max_group_size} would
 * be exceeded (DeepSpeed 0.9.5 to 0.19.8, moe/utils.py, {@code
 * split_params_into_different_moe_groups_for_optimizer}).
 *
 * @param groups at the new size
 * @param templates for each of them, the group of the source whose options it has
 */
record ExpertDegree(ParamGroups groups, List<Integer> templates) {
  ExpertDegree {
    templates = List.copyOf(templates);
  }

  /** Groups of the source, one behind the other, that were one before they were filled. */
  private record Whole(List<Integer> groups, List<ExpertParameter> parameters) {}

  /**
   * The groups at another size.
   *
   * @param where the checkpoint, for messages
   * @param source the groups as saved
   * @param target expert-parallel ranks, and what the user says of the groups
   * @param worldSize data-parallel ranks of the target
   * @param continues whether a group of the source has the same options as the one before it
   * @throws RefusedException if the experts do not fall on that many ranks evenly, or how the
   *     groups are filled is not to be told
   */
  static ExpertDegree of(
      String where,
      ParamGroups source,
      ExpertTarget target,
      int worldSize,
      IntPredicate continues) {
    int size = target.size();
    List<Integer> sizes =
        source.expertParallelSizes().stream().filter(s -> s != ParamGroups.DENSE).toList();
    if (sizes.isEmpty()) {
      throw new RefusedException(
          where,
          "has no experts of DeepSpeed's own mixture of experts, so there is nothing that"
              + " --targetExpertParallelSize could divide. Leave it out.");
    }
    if (sizes.size() > 1) {
      throw new RefusedException(
          where,
          "has experts of the expert-parallel sizes %s side by side, and the checkpoint does not say which of them is to become %d. Leave --targetExpertParallelSize out."
              .formatted(sizes, size));
    }
    int from = sizes.get(0);
    List<Integer> expertGroups = source.indices(from);
    List<Whole> wholes =
        wholes(
            where,
            source,
            expertGroups,
            continues,
            target.maxGroupElements().isPresent()
                ? target.maxGroupElements().getAsInt()
                : Filling.MAX_GROUP_ELEMENTS);
    Map<String, Integer> local = localExperts(wholes);
    requireFits(where, local, from, size, worldSize);
    Filling filling = Filling.of(source, wholes.stream().map(Whole::groups).toList());
    if (target.maxGroupElements().isPresent()) {
      filling = filling.with(where, target.maxGroupElements().getAsInt());
    }
    List<List<ExpertParameter>> turned =
        wholes.stream().map(w -> renumbered(where, w.parameters(), local, from, size)).toList();
    requireApart(where, source, wholes, turned, filling, continues, local, from, size);
    List<ParamGroups.Group> groups = new ArrayList<>();
    List<Integer> templates = new ArrayList<>();
    boolean told = true;
    for (int g = 0; g < source.groups().size(); g++) {
      int group = g;
      if (!expertGroups.contains(g)) {
        groups.add(numbered(source.groups().get(g), groups.size()));
        templates.add(g);
        continue;
      }
      Whole whole =
          wholes.stream().filter(w -> w.groups().get(0) == group).findFirst().orElse(null);
      if (whole == null) {
        continue; // goes with the one before it
      }
      List<ExpertParameter> parameters = turned.get(wholes.indexOf(whole));
      List<List<ExpertParameter>> filled = filling.fill(parameters);
      told &=
          filling.isTold(parameters)
              || (filling.isUsual()
                  && parameters.stream().mapToLong(p -> p.parameter().elements()).sum()
                      <= Filling.NEVER_DIVIDED_ELEMENTS);
      boolean byAllRanks = source.groups().get(g).recordedByAllRanks();
      for (int i = 0; i < filled.size(); i++) {
        int number = groups.size();
        groups.add(
            new ParamGroups.Group(
                filled.get(i).stream().map(p -> p.numbered(p.expert(), number)).toList(),
                size,
                byAllRanks));
        templates.add(whole.groups().get(Math.min(i, whole.groups().size() - 1)));
      }
    }
    if (!told) {
      throw new RefusedException(
          where,
          "its param groups of experts hold up to %d elements, and nothing says up to how many they may hold: at expert-parallel size %d that decides how many groups there are. Say with --maxGroupSize what the script gives as max_group_size to split_params_into_different_moe_groups_for_optimizer, which is %d if it gives nothing, or choose a size at which a rank has no more experts than now."
              .formatted(filling.least(), size, Filling.MAX_GROUP_ELEMENTS));
    }
    return new ExpertDegree(
        new ParamGroups(groups, source.roundRobin(), source.dataFirst(), source.paddings()),
        templates);
  }

  private static ParamGroups.Group numbered(ParamGroups.Group group, int number) {
    return new ParamGroups.Group(
        group.parameters().stream().map(p -> new Parameter(p.name(), p.shape(), number)).toList(),
        group.expertParallelSize(),
        group.recordedByAllRanks());
  }

  /** The groups as they were before they were filled: a rank's experts' parameters in order. */
  private static List<Whole> wholes(
      String where, ParamGroups source, List<Integer> groups, IntPredicate continues, long most) {
    List<Whole> wholes = new ArrayList<>();
    for (int g : groups) {
      List<ExpertParameter> own =
          source.groups().get(g).parameters().stream()
              .map(p -> ExpertParameter.of(where, p))
              .toList();
      Whole last = wholes.isEmpty() ? null : wholes.get(wholes.size() - 1);
      boolean shares = last != null && own.stream().anyMatch(p -> classes(last).contains(of(p)));
      boolean full =
          last != null
              && continues.test(g)
              && Filling.elements(source, last.groups().get(last.groups().size() - 1))
                      + own.get(0).parameter().elements()
                  > most;
      if (shares && !continues.test(g)) {
        throw new RefusedException(
            where,
            "%s and other experts of the same mixture are in param groups of different options, so that nothing says which options an expert has at another expert-parallel size."
                .formatted(own.get(0).parameter().name()));
      }
      if (shares || full) {
        last.groups().add(g);
        last.parameters().addAll(own);
      } else {
        wholes.add(new Whole(new ArrayList<>(List.of(g)), new ArrayList<>(own)));
      }
    }
    return wholes;
  }

  /**
   * Groups of the same options may be one that max_group_size divided, or the script's own: that
   * must make no difference.
   *
   * @param turned for each of {@code wholes} its parameters at the new size
   */
  private static void requireApart(
      String where,
      ParamGroups source,
      List<Whole> wholes,
      List<List<ExpertParameter>> turned,
      Filling filling,
      IntPredicate continues,
      Map<String, Integer> local,
      int from,
      int size) {
    for (int w = 1; w < wholes.size(); w++) {
      List<Integer> before = wholes.get(w - 1).groups();
      List<ExpertParameter> both = new ArrayList<>(wholes.get(w - 1).parameters());
      both.addAll(wholes.get(w).parameters());
      if (!continues.test(wholes.get(w).groups().get(0)) || !isInOrder(both)) {
        continue;
      }
      long joint =
          Filling.elements(source, before.get(before.size() - 1))
              + wholes.get(w).parameters().get(0).parameter().elements();
      List<ExpertParameter> merged = renumbered(where, both, local, from, size);
      List<List<ExpertParameter>> apart = new ArrayList<>(filling.fill(turned.get(w - 1)));
      apart.addAll(filling.fill(turned.get(w)));
      for (long most : List.of(filling.least(), Math.min(filling.tooMany(), joint) - 1)) {
        if (!Filling.fill(merged, most).equals(apart)) {
          throw new RefusedException(
              where,
              "two param groups of experts have the same options, and nothing says whether they are"
                  + " one that max_group_size divided: at another expert-parallel size the groups"
                  + " would be others. Leave --targetExpertParallelSize out.");
        }
      }
    }
  }

  /** What all experts of a mixture have one of. */
  private static List<String> of(ExpertParameter parameter) {
    return List.of(parameter.mixture(), parameter.name());
  }

  private static Set<List<String>> classes(Whole whole) {
    Set<List<String>> classes = new LinkedHashSet<>();
    whole.parameters().forEach(p -> classes.add(of(p)));
    return classes;
  }

  /** How many experts a rank has of each mixture. */
  private static Map<String, Integer> localExperts(List<Whole> wholes) {
    Map<String, Integer> local = new LinkedHashMap<>();
    for (Whole whole : wholes) {
      whole.parameters().forEach(p -> local.merge(p.mixture(), p.expert() + 1, Math::max));
    }
    return local;
  }

  private static void requireFits(
      String where, Map<String, Integer> local, int from, int size, int worldSize) {
    List<Integer> counts = local.values().stream().map(count -> count * from).toList();
    IntPredicate divides = s -> counts.stream().allMatch(count -> count % s == 0);
    if (!divides.test(size) || worldSize % size != 0) {
      int most = counts.stream().mapToInt(Integer::intValue).min().orElse(1);
      List<Integer> fitting =
          IntStream.rangeClosed(1, most)
              .filter(s -> divides.test(s) && worldSize % s == 0)
              .boxed()
              .toList();
      throw new RefusedException(
          where,
          "--targetExpertParallelSize=%d has to divide the number of experts of each mixture, %s, and the data-parallel size of the target, %d. What fits is %s."
              .formatted(size, counts.stream().distinct().sorted().toList(), worldSize, fitting));
    }
  }

  /**
   * The same parameters of another number of experts a rank.
   *
   * @throws RefusedException if they are in another order than that of the module
   */
  private static List<ExpertParameter> renumbered(
      String where,
      List<ExpertParameter> parameters,
      Map<String, Integer> local,
      int from,
      int size) {
    if (!isInOrder(parameters)) {
      throw new RefusedException(
          where,
          "the param groups have the parameters of the experts in another order than that of the"
              + " module, expert after expert, and what the order is at another expert-parallel"
              + " size is not to be told.");
    }
    Map<String, Integer> other = new LinkedHashMap<>();
    local.forEach((mixture, count) -> other.put(mixture, count * from / size));
    return numbered(ofFirstExperts(parameters), other);
  }

  private static Map<String, List<ExpertParameter>> ofFirstExperts(
      List<ExpertParameter> parameters) {
    Map<String, List<ExpertParameter>> ofFirst = new LinkedHashMap<>();
    for (ExpertParameter parameter : parameters) {
      if (parameter.expert() == 0) {
        ofFirst.computeIfAbsent(parameter.mixture(), m -> new ArrayList<>()).add(parameter);
      }
    }
    return ofFirst;
  }

  /** Whether they are mixture after mixture, expert after expert, all experts alike. */
  private static boolean isInOrder(List<ExpertParameter> parameters) {
    Map<String, Integer> experts = new LinkedHashMap<>();
    parameters.forEach(p -> experts.merge(p.mixture(), p.expert() + 1, Math::max));
    return numbered(ofFirstExperts(parameters), experts).stream()
        .map(p -> p.numbered(p.expert(), 0))
        .toList()
        .equals(parameters.stream().map(p -> p.numbered(p.expert(), 0)).toList());
  }

  private static List<ExpertParameter> numbered(
      Map<String, List<ExpertParameter>> ofFirst, Map<String, Integer> experts) {
    List<ExpertParameter> numbered = new ArrayList<>();
    ofFirst.forEach(
        (mixture, parameters) -> {
          for (int expert = 0; expert < experts.get(mixture); expert++) {
            for (ExpertParameter p : parameters) {
              numbered.add(new ExpertParameter(mixture, expert, p.name(), p.numbered(expert, 0)));
            }
          }
        });
    return numbered;
  }
}
