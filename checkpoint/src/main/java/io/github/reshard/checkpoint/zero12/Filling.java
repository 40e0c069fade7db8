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
  static Filling of(ParamGroups source, List<ExpertDegree.Whole> wholes) {
    long least = 0;
    long tooMany = Long.MAX_VALUE;
    for (ExpertDegree.Whole whole : wholes) {
      for (int i = 0; i < whole.groups().size(); i++) {
        int group = whole.groups().get(i);
        long elements = ExpertDegree.elements(source, group);
        // One parameter is never divided, however large.
        least = Math.max(least, source.groups().get(group).parameters().size() > 1 ? elements : 0);
        if (i + 1 < whole.groups().size()) {
          Parameter next = source.groups().get(whole.groups().get(i + 1)).parameters().get(0);
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
    return least <= ExpertDegree.MAX_GROUP_ELEMENTS && ExpertDegree.MAX_GROUP_ELEMENTS < tooMany;
  }

  /** Whether everything that fills the source's groups as they are fills these alike. */
  boolean isTold(List<ExpertDegree.Local> parameters) {
    return fill(parameters, least).equals(fill(parameters, tooMany - 1));
  }

  List<List<ExpertDegree.Local>> fill(List<ExpertDegree.Local> parameters) {
    return fill(parameters, isUsual() ? ExpertDegree.MAX_GROUP_ELEMENTS : least);
  }

  static List<List<ExpertDegree.Local>> fill(List<ExpertDegree.Local> parameters, long most) {
    List<List<ExpertDegree.Local>> groups = new ArrayList<>();
    List<ExpertDegree.Local> open = new ArrayList<>();
    long elements = 0;
    for (ExpertDegree.Local parameter : parameters) {
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
}
