package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ParameterTensor;
import io.github.reshard.checkpoint.plan.ParameterTensor.Piece;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.transforms.CompareTensors.Side;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.values.KV;

/** Cuts the tensors of a parameter that both checkpoints have into runs of bounded size. */
final class PairTensors extends DoFn<KV<ParamId, Iterable<Side>>, RunPair> {
  private static final long serialVersionUID = 1L;
  private final long runBytes;

  PairTensors(long runBytes) {
    this.runBytes = runBytes;
  }

  @ProcessElement
  public void process(@Element KV<ParamId, Iterable<Side>> sides, OutputReceiver<RunPair> out) {
    ParameterTensor a = null;
    ParameterTensor b = null;
    Map<String, List<List<Piece>>> alikeA = Map.of();
    Map<String, List<List<Piece>>> alikeB = Map.of();
    for (Side side : sides.getValue()) {
      if (side.side() == CompareTensors.A) {
        a = side.tensor();
        alikeA = side.alike();
      } else {
        b = side.tensor();
        alikeB = side.alike();
      }
    }
    Set<String> states = new LinkedHashSet<>();
    if (a != null) {
      states.addAll(a.states().keySet());
    }
    if (b != null) {
      states.addAll(b.states().keySet());
    }
    for (String state : states) {
      TensorId id = new TensorId(sides.getKey(), state);
      List<Piece> ofA = a == null ? null : a.states().get(state);
      List<Piece> ofB = b == null ? null : b.states().get(state);
      boolean oneKeepsNoWeights =
          state.equals(States.MODULE) && a != null && b != null && (ofA == null || ofB == null);
      if (oneKeepsNoWeights) {
        continue;
      }
      String problem = problem(a, ofA, b, ofB);
      if (!problem.isEmpty() || ofA.isEmpty()) {
        out.output(new RunPair(id, problem, DType.UINT8, 0, 0, List.of(), List.of()));
        continue;
      }
      compare(id, a.elements(), ofA, ofB, out);
      // Where ranks share a state, every copy of one is compared with the first of the other.
      for (Piece copy : a.copies().getOrDefault(state, List.of())) {
        compare(copyOf(id, copy, "--input"), a.elements(), List.of(copy), ofB, out);
      }
      for (Piece copy : b.copies().getOrDefault(state, List.of())) {
        compare(copyOf(id, copy, "--output"), a.elements(), ofA, List.of(copy), out);
      }
      for (List<Piece> copy : alikeA.getOrDefault(state, List.of())) {
        compare(copyOf(id, copy.get(0), "--input"), a.elements(), copy, ofB, out);
      }
      for (List<Piece> copy : alikeB.getOrDefault(state, List.of())) {
        compare(copyOf(id, copy.get(0), "--output"), a.elements(), ofA, copy, out);
      }
    }
  }

  private static TensorId copyOf(TensorId id, Piece copy, String side) {
    return new TensorId(
        id.parameter(), "%s on rank %d of %s".formatted(id.state(), copy.rank(), side));
  }

  private void compare(
      TensorId id, long all, List<Piece> ofA, List<Piece> ofB, OutputReceiver<RunPair> out) {
    DType dtype = ofA.get(0).dtype();
    long most = Math.max(1, runBytes / dtype.bytes());
    for (long start = 0; start < all; start += most) {
      long elements = Math.min(most, all - start);
      out.output(
          new RunPair(
              id,
              "",
              dtype,
              start,
              elements,
              within(ofA, start, elements),
              within(ofB, start, elements)));
    }
  }

  private static String problem(
      ParameterTensor a, List<Piece> ofA, ParameterTensor b, List<Piece> ofB) {
    if (ofA == null || ofB == null) {
      return "only " + (ofA == null ? "--output" : "--input") + " has it";
    }
    if (a.elements() != b.elements()) {
      return "%d elements in --input, %d in --output".formatted(a.elements(), b.elements());
    }
    if (!ofA.isEmpty() && !ofB.isEmpty() && ofA.get(0).dtype() != ofB.get(0).dtype()) {
      return "%s in --input, %s in --output"
          .formatted(ofA.get(0).dtype().torchName(), ofB.get(0).dtype().torchName());
    }
    return "";
  }

  private static List<Piece> within(List<Piece> pieces, long start, long elements) {
    List<Piece> clipped = new ArrayList<>();
    for (Piece piece : pieces) {
      long from = Math.max(start, piece.start());
      long to = Math.min(start + elements, piece.start() + piece.elements());
      if (from < to) {
        clipped.add(
            new Piece(
                from,
                to - from,
                piece.rank(),
                piece.dtype(),
                piece.address().plus((from - piece.start()) * piece.dtype().bytes())));
      }
    }
    return clipped;
  }
}
