package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.plan.Overlap.Run;
import io.github.reshard.checkpoint.plan.ParameterTensor.Piece;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.PartitionedModel;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;

/** The pieces of a parameter in the order of its full tensor, whoever has which box of it. */
public final class FullOrder {
  private FullOrder() {}

  /**
   * The pieces as runs of the full tensor.
   *
   * @param pieces of one state, as runs of local tensors
   * @return for each copy of the parameter all of its elements, in order
   */
  public static List<List<Piece>> of(PartitionedModel model, int parameter, List<Piece> pieces) {
    List<Long> shape = model.parameters().get(parameter).shape();
    List<Run> all = List.of(new Run(0, model.parameters().get(parameter).elements()));
    SortedMap<Integer, List<Piece>> copies = new TreeMap<>();
    for (int holder = 0; holder < model.source().holders(); holder++) {
      int own = holder;
      List<Piece> of =
          pieces.stream()
              .filter(piece -> StateCopies.holderOf(model.source(), piece.rank()) == own)
              .toList();
      if (of.isEmpty()) {
        continue;
      }
      List<Piece> into =
          copies.computeIfAbsent(
              model.source().copyOf(holder, parameter), copy -> new ArrayList<>());
      for (Overlap.Shared shared :
          Overlap.of(
              shape,
              model.source().localTensor(holder, parameter),
              of.stream().map(piece -> new Run(piece.start(), piece.elements())).toList(),
              LocalTensor.whole(shape),
              all,
              of.get(0).dtype().bytes())) {
        add(of.get(shared.from()), shared, into);
      }
    }
    copies.values().forEach(copy -> copy.sort(Comparator.comparingLong(Piece::start)));
    return List.copyOf(copies.values());
  }

  private static void add(Piece piece, Overlap.Shared shared, List<Piece> into) {
    long behind = shared.source() - piece.start();
    if (shared.rows() == null) {
      into.add(moved(piece, behind, shared.tensor(), shared.elements()));
      return;
    }
    shared
        .rows()
        .forEach(
            0,
            shared.elements(),
            (source, target, tensor, elements) ->
                into.add(moved(piece, behind + source, shared.tensor() + tensor, elements)));
  }

  private static Piece moved(Piece piece, long behind, long start, long elements) {
    return new Piece(
        start,
        elements,
        piece.rank(),
        piece.dtype(),
        piece.address().plus(behind * piece.dtype().bytes()));
  }
}
