package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.torch.DType;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A full tensor of each state of a parameter, as a list of where its elements are. That every
 * element is there exactly once was proven when it was assembled.
 *
 * @param id the parameter
 * @param elements elements of the parameter
 * @param states for each state, its pieces in order, holder after holder
 * @param copies for each state that ranks share, the whole copies beside the first, by rank
 */
public record ParameterTensor(
    ParamId id, long elements, Map<String, List<Piece>> states, Map<String, List<Piece>> copies)
    implements Serializable {
  /**
   * Elements that lie in one run in one file.
   *
   * @param start the first element of the holder's local tensor, which is the parameter unless
   *     tensor parallelism cut it
   * @param elements how many
   * @param rank the rank that held them
   * @param dtype the type of an element
   * @param address where the first one lies in the source
   */
  public record Piece(long start, long elements, int rank, DType dtype, Address address)
      implements Serializable {}

  /** How a parameter is cut before its pieces are runs of something. */
  interface Locals {
    /** How many local tensors there are. */
    int holders();

    /** Whose local tensor a slice of {@code rank} is of. */
    int holderOf(int rank);

    /** Elements of {@code state} that {@code holder} has: those of its local tensor. */
    long elements(int holder, String state);

    /** Not at all. */
    static Locals uncut(long elements) {
      return new Locals() {
        @Override
        public int holders() {
          return 1;
        }

        @Override
        public int holderOf(int rank) {
          return 0;
        }

        @Override
        public long elements(int holder, String state) {
          return elements;
        }
      };
    }
  }

  /** Brings the slices of a parameter that is not cut together. */
  static ParameterTensor assemble(
      ParamId id,
      long elements,
      Map<String, DType> expected,
      Map<String, List<Integer>> holders,
      Iterable<RankSlice> slices) {
    return assemble(id, elements, Locals.uncut(elements), expected, holders, slices);
  }

  /**
   * Brings the slices of a parameter together.
   *
   * @param locals what the slices are runs of; that these make the parameter is their layout's
   * @param expected the states that must be there, with their types
   * @param holders for each state that ranks share, those that must hold a whole copy, in order;
   *     all other states must be there once
   * @throws RefusedException if an element of a state is missing or there twice, or a state is
   *     unknown or of another type
   */
  static ParameterTensor assemble(
      ParamId id,
      long elements,
      Locals locals,
      Map<String, DType> expected,
      Map<String, List<Integer>> holders,
      Iterable<RankSlice> slices) {
    Map<String, List<Piece>> states = new LinkedHashMap<>();
    expected.keySet().forEach(state -> states.put(state, new ArrayList<>()));
    for (RankSlice slice : slices) {
      for (StateExtent extent : slice.states()) {
        DType dtype = expected.get(extent.state());
        if (dtype != extent.dtype()) {
          throw refused(
              id,
              extent.state(),
              "rank %d holds it as %s, expected %s"
                  .formatted(
                      slice.rank(), extent.dtype(), dtype == null ? "no such state" : dtype));
        }
        states
            .get(extent.state())
            .add(
                new Piece(
                    slice.start(),
                    slice.elements(),
                    slice.rank(),
                    extent.dtype(),
                    new Address(extent.file(), extent.entry(), extent.offset())));
      }
    }
    Map<String, List<Piece>> copies = new LinkedHashMap<>();
    states.forEach(
        (state, pieces) -> {
          if (!holders.containsKey(state)) {
            requireCovered(id, state, locals, pieces);
            return;
          }
          requireHeldBy(holders.get(state), id, state, elements, pieces);
          if (pieces.size() > 1) {
            List<Piece> others = pieces.subList(1, pieces.size());
            copies.put(state, new ArrayList<>(others));
            others.clear();
          }
        });
    return new ParameterTensor(id, elements, states, copies);
  }

  private static void requireHeldBy(
      List<Integer> holders, ParamId id, String state, long elements, List<Piece> pieces) {
    pieces.sort(Comparator.comparingInt(Piece::rank));
    List<Integer> ranks = pieces.stream().map(Piece::rank).toList();
    if (!ranks.equals(holders)) {
      throw refused(
          id,
          state,
          "expected a copy of all %d elements on each of the ranks %s, which share the parameter; found one on %s"
              .formatted(elements, holders, ranks));
    }
    for (Piece piece : pieces) {
      requireCovered(id, state, elements, new ArrayList<>(List.of(piece)));
    }
  }

  private static void requireCovered(ParamId id, String state, Locals locals, List<Piece> pieces) {
    if (locals.holders() == 1) {
      requireCovered(id, state, locals.elements(0, state), pieces);
      return;
    }
    List<List<Piece>> byHolder = new ArrayList<>();
    for (int holder = 0; holder < locals.holders(); holder++) {
      byHolder.add(new ArrayList<>());
    }
    pieces.forEach(piece -> byHolder.get(locals.holderOf(piece.rank())).add(piece));
    pieces.clear();
    for (int holder = 0; holder < locals.holders(); holder++) {
      requireCovered(id, state, locals.elements(holder, state), byHolder.get(holder));
      pieces.addAll(byHolder.get(holder));
    }
  }

  private static void requireCovered(ParamId id, String state, long elements, List<Piece> pieces) {
    pieces.sort(Comparator.comparingLong(Piece::start));
    long covered = 0;
    for (Piece piece : pieces) {
      if (piece.start() != covered) {
        throw refused(
            id,
            state,
            "elements %d to %d are %s; rank %d holds elements %d to %d"
                .formatted(
                    Math.min(covered, piece.start()),
                    Math.max(covered, piece.start()),
                    piece.start() > covered ? "missing" : "there twice",
                    piece.rank(),
                    piece.start(),
                    piece.start() + piece.elements()));
      }
      covered += piece.elements();
    }
    if (covered != elements) {
      throw refused(
          id, state, "expected %d elements, the shards hold %d".formatted(elements, covered));
    }
  }

  private static RefusedException refused(ParamId id, String state, String problem) {
    return new RefusedException(
        "parameter " + id,
        "state '"
            + state
            + "': "
            + problem
            + ". The shards are not all of one checkpoint, or one is missing.");
  }
}
