package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.state.Parameter;
import java.util.ArrayList;
import java.util.List;

/**
 * Up to how many elements a group holds: what filled the source's groups as they are.
 *
 * @param least elements of the largest one
 * @param tooMany elements of the smallest one and the parameter that did not fit in it
 */
record Filling(long least, long tooMany) {
  /** The default of {@code max_group_size}, in elements. */
  static final long MAX_GROUP_ELEMENTS = 178_956_971;

  /** No script divides less, in elements: it would gain nothing. */
  static final long NEVER_DIVIDED_ELEMENTS = 1_000_000;

  static Filling of(ParamGroups source, List<List<Integer>> wholes) {
    long least = 0;
    long tooMany = Long.MAX_VALUE;
    for (List<Integer> whole : wholes) {
      for (int i = 0; i < whole.size(); i++) {
        int group = whole.get(i);
        long elements = elements(source, group);
        // One parameter is never divided, however large.
        least = Math.max(least, source.groups().get(group).parameters().size() > 1 ? elements : 0);
        if (i + 1 < whole.size()) {
          Parameter next = source.groups().get(whole.get(i + 1)).parameters().get(0);
          tooMany = Math.min(tooMany, elements + next.elements());
        }
      }
    }
    return new Filling(least, tooMany);
  }

  /** The same where the maximum is known; it has to give what the source has. */
  Filling with(String where, long most) {
    if (most < least || most >= tooMany) {
      throw new RefusedException(
          where,
          "with --maxGroupSize=%d its own param groups of experts would be others: they hold up to %d elements%s."
              .formatted(
                  most,
                  least,
                  tooMany == Long.MAX_VALUE ? "" : ", and %d did not fit".formatted(tooMany)));
    }
    return new Filling(most, most + 1);
  }

  /** Whether DeepSpeed's default fills the groups so. */
  boolean isUsual() {
    return least <= MAX_GROUP_ELEMENTS && MAX_GROUP_ELEMENTS < tooMany;
  }

  /** Whether everything that fills the source's groups as they are fills these alike. */
  boolean isTold(List<ExpertParameter> parameters) {
    return fill(parameters, least).equals(fill(parameters, tooMany - 1));
  }

  List<List<ExpertParameter>> fill(List<ExpertParameter> parameters) {
    return fill(parameters, isUsual() ? MAX_GROUP_ELEMENTS : least);
  }

  static List<List<ExpertParameter>> fill(List<ExpertParameter> parameters, long most) {
    List<List<ExpertParameter>> groups = new ArrayList<>();
    List<ExpertParameter> open = new ArrayList<>();
    long elements = 0;
    for (ExpertParameter parameter : parameters) {
      long own = parameter.parameter().elements();
      if (elements + own > most) {
        groups.add(open);
        open = new ArrayList<>();
        elements = 0;
      }
      open.add(parameter);
      elements += own;
    }
    groups.add(open);
    groups.removeIf(List::isEmpty); // the engine drops the one before a first that is too large
    return groups;
  }

  /** Elements of a param group. */
  static long elements(ParamGroups groups, int group) {
    return groups.groups().get(group).parameters().stream().mapToLong(Parameter::elements).sum();
  }
}
