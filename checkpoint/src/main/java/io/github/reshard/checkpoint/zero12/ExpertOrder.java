package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;

/**
 * Finds which parameter of a rank's experts lies where in flat groups whose mappings do not say it,
 * by the weights: the masters there, cast to the model's type, have to be the parameter's weight on
 * every expert-parallel rank.
 */
final class ExpertOrder {
  /** Elements by which a weight is looked up. */
  private static final int HEAD = 64;

  /** How many places are tried at most before the search is given up. */
  private static final int MOST_PLACES = 200_000;

  /**
   * A param group of experts.
   *
   * @param number in the optimizer's files
   * @param rows for each expert-parallel rank its states, the masters last
   * @param recorded the names that the mappings have, in the order in which the optimizer was given
   *     them; the first of the group's
   * @param roundRobin whether the flat order is another one
   * @param provenElements the order of parameters that begin before has to be the only one that the
   *     weights allow
   */
  record Group(
      int number,
      List<List<FlatRow>> rows,
      List<String> recorded,
      boolean roundRobin,
      long provenElements) {
    long elements() {
      return rows.get(0).get(0).elements();
    }

    FlatRow masters(int expertRank) {
      List<FlatRow> states = rows.get(expertRank);
      return states.get(states.size() - 1);
    }

    /** The name that the mappings have for the parameter at {@code place}, or null. */
    String known(int place) {
      return !roundRobin && place < recorded.size() ? recorded.get(place) : null;
    }
  }

  /** A parameter at a place. */
  private record Placed(int group, int place, long at, int parameter) {}

  /** A place to be filled: what was tried there is below {@code next} in order of preference. */
  private static final class Open {
    final int group;
    final int place;
    final long at;
    final int preferred;
    int next;
    int chosen = -1;

    Open(int group, int place, long at, int preferred) {
      this.group = group;
      this.place = place;
      this.at = at;
      this.preferred = preferred;
    }
  }

  private final List<Group> groups;
  private final List<ExpertFiles.LocalParameter> parameters;
  private final int stride;
  private final Map<Integer, ByteBuffer> heads = new HashMap<>();

  /**
   * @param groups the groups, in order
   * @param parameters what may be in them, in the order of the module
   * @param stride how many places on the next of a flat group is in the original order
   */
  ExpertOrder(List<Group> groups, List<ExpertFiles.LocalParameter> parameters, int stride) {
    this.groups = groups;
    this.parameters = parameters;
    this.stride = stride;
  }

  /**
   * The parameters of each group in flat order.
   *
   * @param where the checkpoint, for messages
   * @throws RefusedException if no order fits the weights, or several do and it matters which
   */
  List<List<ExpertFiles.LocalParameter>> find(String where) throws IOException {
    List<Placed> found = solve(new BitSet(), firstOpen(0, 0, 0, -1));
    if (found == null) {
      throw new RefusedException(
          where,
          "the masters in the shards, cast to the model's type, do not give the weights of the experts in the layer_*_expert_* files in any order. Are files of two checkpoints mixed here?");
    }
    found = asRecorded(found);
    requireOnly(found);
    List<List<ExpertFiles.LocalParameter>> flat = new ArrayList<>();
    groups.forEach(group -> flat.add(new ArrayList<>()));
    found.forEach(placed -> flat.get(placed.group()).add(parameters.get(placed.parameter())));
    return flat;
  }

  /**
   * Under round robin the mappings tell of the original order's beginning, which is not known to be
   * somewhere until the last place is filled. Parameters with equal weights change places then.
   */
  private List<Placed> asRecorded(List<Placed> found) throws IOException {
    List<Placed> named = new ArrayList<>(found);
    for (int g = 0; g < groups.size(); g++) {
      int number = g;
      List<Integer> places =
          IntStream.range(0, found.size())
              .filter(i -> found.get(i).group() == number)
              .boxed()
              .toList();
      List<Integer> order = RoundRobin.flatOrder(places.size(), stride);
      List<String> recorded = groups.get(g).recorded();
      for (int i = 0;
          groups.get(g).roundRobin() && i < Math.min(recorded.size(), order.size());
          i++) {
        int here = places.get(order.indexOf(i));
        for (int there : places) {
          if (there != here && nameAt(named, there).equals(recorded.get(i))) {
            exchange(named, here, there);
            break;
          }
        }
      }
    }
    return named;
  }

  private String nameAt(List<Placed> placed, int index) {
    return parameters.get(placed.get(index).parameter()).name();
  }

  /** Exchanges two parameters if either's weight is at the other's place. */
  private void exchange(List<Placed> placed, int here, int there) throws IOException {
    Placed one = placed.get(here);
    Placed other = placed.get(there);
    if (parameters.get(one.parameter()).elements() == parameters.get(other.parameter()).elements()
        && isAt(one, other.parameter())
        && isAt(other, one.parameter())) {
      placed.set(here, new Placed(one.group(), one.place(), one.at(), other.parameter()));
      placed.set(there, new Placed(other.group(), other.place(), other.at(), one.parameter()));
    }
  }

  private boolean isAt(Placed place, int parameter) throws IOException {
    for (int rank = 0; rank < groups.get(place.group()).rows().size(); rank++) {
      StoredWeight weight = parameters.get(parameter).weights().get(rank);
      if (!groups.get(place.group()).masters(rank).gives(place.at(), weight, true)) {
        return false;
      }
    }
    return true;
  }

  /** The first place at or behind the given one that has something to hold; null at the end. */
  private Open firstOpen(int group, int place, long at, int last) {
    int g = group;
    int p = place;
    long from = at;
    while (g < groups.size() && from >= groups.get(g).elements()) {
      g++;
      p = 0;
      from = 0;
    }
    int preferred = last + stride < parameters.size() && last >= 0 ? last + stride : 0;
    return g < groups.size() ? new Open(g, p, from, preferred) : null;
  }

  private List<Placed> solve(BitSet used, Open first) throws IOException {
    Deque<Open> path = new ArrayDeque<>();
    int tried = 0;
    Open open = first;
    while (open != null) {
      if (++tried > MOST_PLACES) {
        throw new RefusedException(
            parameters.get(0).weights().get(0).where(),
            "too many orders of the experts' parameters come near to what the shards hold. Load the checkpoint once with DeepSpeed 0.14.5 to 0.19 at the same number of ranks, and save it again: its files say the order.");
      }
      int parameter = nextFitting(used, open);
      if (parameter >= 0) {
        open.chosen = parameter;
        used.set(parameter);
        path.addLast(open);
        open =
            firstOpen(
                open.group,
                open.place + 1,
                open.at + parameters.get(parameter).elements(),
                parameter);
      } else {
        open = path.pollLast();
        if (open == null) {
          return null;
        }
        used.clear(open.chosen);
      }
    }
    return path.stream().map(o -> new Placed(o.group, o.place, o.at, o.chosen)).toList();
  }

  /** The next parameter, in order of preference, that is not used and fits; -1 if there is none. */
  private int nextFitting(BitSet used, Open open) throws IOException {
    int all = parameters.size();
    ByteBuffer masters = null;
    while (open.next < all) {
      // The one that follows in the module's order first.
      int candidate = (open.preferred + open.next) % all;
      open.next++;
      if (used.get(candidate)) {
        continue;
      }
      if (masters == null) {
        FlatRow row = groups.get(open.group).masters(0);
        masters = row.read(open.at, Math.min(HEAD, row.elements() - open.at));
      }
      if (fits(open.group, open.place, open.at, candidate, masters, false)) {
        return candidate;
      }
    }
    return -1;
  }

  private boolean fits(
      int g, int place, long at, int candidate, ByteBuffer masters, boolean thoroughly)
      throws IOException {
    Group group = groups.get(g);
    ExpertFiles.LocalParameter parameter = parameters.get(candidate);
    String known = group.known(place);
    if (parameter.elements() == 0
        || parameter.elements() > group.elements() - at
        || (known != null && !known.equals(parameter.name()))) {
      return false;
    }
    if (!group.masters(0).castsTo(masters, parameter.weights().get(0), head(candidate))) {
      return false;
    }
    for (int rank = 0; rank < group.rows().size(); rank++) {
      if (!group.masters(rank).gives(at, parameter.weights().get(rank), thoroughly)) {
        return false;
      }
    }
    return true;
  }

  private ByteBuffer head(int candidate) throws IOException {
    ByteBuffer head = heads.get(candidate);
    if (head == null) {
      head = groups.get(0).masters(0).head(parameters.get(candidate).weights().get(0), HEAD);
      heads.put(candidate, head);
    }
    return head;
  }

  /**
   * Refuses what the weights leave open. Two parameters with equal weights may change places if
   * their whole state is equal too, as that of experts that were never chosen is.
   */
  private void requireOnly(List<Placed> found) throws IOException {
    Map<Integer, Placed> byParameter = new HashMap<>();
    found.forEach(placed -> byParameter.put(placed.parameter(), placed));
    BitSet used = new BitSet();
    for (Placed placed : found) {
      Group group = groups.get(placed.group());
      if (placed.at() < group.provenElements() && group.known(placed.place()) == null) {
        FlatRow row = group.masters(0);
        ByteBuffer masters = row.read(placed.at(), Math.min(HEAD, row.elements() - placed.at()));
        for (int other = 0; other < parameters.size(); other++) {
          if (other != placed.parameter()
              && !used.get(other)
              && fits(placed.group(), placed.place(), placed.at(), other, masters, true)
              && !isHarmless(placed, byParameter.get(other), other, used)) {
            throw new RefusedException(
                parameters.get(other).weights().get(0).where(),
                "the shards hold these weights in two places, and those of '%s' too, with different states, and DeepSpeed before 0.14.5 did not save which is whose. Load the checkpoint once with DeepSpeed 0.14.5 to 0.19 at the same number of ranks, and save it again: its files say it."
                    .formatted(parameters.get(placed.parameter()).name()));
          }
        }
      }
      used.set(placed.parameter());
    }
  }

  /** Whether it makes no difference that {@code other} could be where {@code placed} is. */
  private boolean isHarmless(Placed placed, Placed others, int other, BitSet before)
      throws IOException {
    if (parameters.get(other).elements() != parameters.get(placed.parameter()).elements()) {
      BitSet used = (BitSet) before.clone();
      used.set(other);
      long after = placed.at() + parameters.get(other).elements();
      return solve(used, firstOpen(placed.group(), placed.place() + 1, after, other)) == null;
    }
    if (others == null || others.group() != placed.group()) {
      return false;
    }
    long elements = parameters.get(other).elements();
    for (List<FlatRow> states : groups.get(placed.group()).rows()) {
      for (FlatRow state : states) {
        if (!state.isSameAt(placed.at(), others.at(), elements)) {
          return false;
        }
      }
    }
    return true;
  }
}
