package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.copy.WeightCast;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.zero12.Shard;
import io.github.reshard.checkpoint.zero3.ShardedStates;
import io.github.reshard.checkpoint.zero3.SubGroups;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Which parameters the sub-groups of bare ZeRO-3 shards hold. The shards have neither names nor
 * shapes, only flat masters; the model has names, shapes and the very values that the masters give.
 */
final class ShardedReading {
  private static final int SAMPLE = 1024;

  private final DeepSpeedReading reading;
  private final List<Shard> shards;
  private final ShardedStates states;
  private final ModelWeights model;

  /**
   * @param shards one for each rank
   */
  ShardedReading(DeepSpeedReading reading, List<Shard> shards, ModelWeights model) {
    this.reading = reading;
    this.shards = shards;
    this.states = new ShardedStates(shards.get(0).states().root());
    this.model = model;
  }

  private TensorNode flat(int rank, int bucket) {
    return new ShardedStates(shards.get(rank).states().root())
        .flatGroups()
        .items()
        .get(bucket)
        .tensor();
  }

  private long piece(long elements) {
    return -Math.floorDiv(-elements, (long) shards.size());
  }

  /**
   * The parameters as the user listed them.
   *
   * @param names for each param group
   * @throws RefusedException if they do not fill the sub-groups
   */
  SubGroups listed(String file, List<List<String>> names) {
    List<List<Integer>> groups = states.subGroups();
    if (names.size() != groups.size()) {
      throw new RefusedException(
          file,
          "lists %d param groups, the shards have %d.".formatted(names.size(), groups.size()));
    }
    List<Parameter> parameters = new ArrayList<>();
    List<Integer> firsts = new ArrayList<>();
    for (int g = 0; g < groups.size(); g++) {
      int next = 0;
      for (int bucket : groups.get(g)) {
        firsts.add(parameters.size());
        long filled = 0;
        long length = flat(0, bucket).numel();
        while (filled < length && next < names.get(g).size()) {
          Parameter parameter = parameter(names.get(g).get(next++), g);
          filled += piece(parameter.elements());
          parameters.add(parameter);
        }
        if (filled != length) {
          throw new RefusedException(
              file,
              "sub-group %d has %d elements a rank; up to %s the parameters of group %d take %d."
                  .formatted(
                      bucket,
                      length,
                      next == 0 ? "the first" : names.get(g).get(next - 1),
                      g,
                      filled));
        }
      }
      if (next < names.get(g).size()) {
        throw new RefusedException(
            file, "group %d of the shards ends before %s.".formatted(g, names.get(g).get(next)));
      }
    }
    return new SubGroups(parameters, firsts, states.flatGroups());
  }

  private Parameter parameter(String name, int group) {
    ModelWeights.Weight weight =
        model
            .find(name)
            .orElseThrow(
                () ->
                    new RefusedException(
                        model.path(),
                        "has no weight '%s', which --paramGroups lists.".formatted(name)));
    return new Parameter(name, weight.shape(), group);
  }

  /**
   * The one reading in which every flat length is filled and the masters give the weights.
   *
   * @throws RefusedException if there is none, or more than one
   */
  SubGroups found() throws IOException {
    Map<String, Candidate> open = candidates();
    List<Parameter> parameters = new ArrayList<>();
    List<Integer> firsts = new ArrayList<>();
    List<List<Integer>> groups = states.subGroups();
    for (int g = 0; g < groups.size(); g++) {
      for (int bucket : groups.get(g)) {
        firsts.add(parameters.size());
        long length = flat(0, bucket).numel();
        for (long at = 0; at < length; ) {
          String name = only(bucket, at, length - at, open);
          ModelWeights.Weight weight = open.remove(name).weight();
          parameters.add(new Parameter(name, weight.shape(), g));
          at += piece(weight.elements());
        }
      }
    }
    return new SubGroups(parameters, firsts, states.flatGroups());
  }

  /**
   * A weight that is not yet found in the shards.
   *
   * @param head its first elements
   */
  private record Candidate(ModelWeights.Weight weight, ByteBuffer head) {}

  private static final int HEAD = 16;

  private Map<String, Candidate> candidates() throws IOException {
    DType master = flat(0, 0).dtype();
    Set<Address> seen = new HashSet<>();
    Map<String, Candidate> candidates = new LinkedHashMap<>();
    for (Map.Entry<String, ModelWeights.Weight> entry : model.weights().entrySet()) {
      ModelWeights.Weight weight = entry.getValue();
      // Tied weights have two names and one place; DeepSpeed knows them by the first.
      if (weight.elements() > 0
          && weight.contiguous()
          && WeightCast.supports(master, weight.dtype())
          && seen.add(weight.address())) {
        long head = Math.min(HEAD, piece(weight.elements()));
        candidates.put(
            entry.getKey(),
            new Candidate(weight, read(weight.address(), head * weight.dtype().bytes())));
      }
    }
    return candidates;
  }

  private String only(int bucket, long at, long left, Map<String, Candidate> open)
      throws IOException {
    List<String> fits = new ArrayList<>();
    ByteBuffer head = masters(0, bucket, at, Math.min(HEAD, left));
    DType master = flat(0, bucket).dtype();
    for (Map.Entry<String, Candidate> candidate : open.entrySet()) {
      ModelWeights.Weight weight = candidate.getValue().weight();
      ByteBuffer weights = candidate.getValue().head();
      int elements = weights.remaining() / weight.dtype().bytes();
      if (piece(weight.elements()) <= left
          && WeightCast.firstMismatch(
                  head.slice(0, elements * master.bytes()).order(ByteOrder.LITTLE_ENDIAN),
                  master,
                  weights,
                  weight.dtype())
              < 0
          && isAt(bucket, at, weight)) {
        fits.add(candidate.getKey());
      }
    }
    if (fits.isEmpty()) {
      throw new RefusedException(
          states.flatGroups().where(),
          "no weight of %s is what the masters give at element %d of sub-group %d. --model is the model's state dict at the same step, in the type that it was trained in or fp32, with all trained parameters."
              .formatted(model.path(), at, bucket));
    }
    if (fits.size() > 1) {
      throw new RefusedException(
          states.flatGroups().where(),
          "at element %d of sub-group %d both %s and %s fit, because they hold the same values. List the names of each param group in order with --paramGroups=FILE: [[\"name\", ...], ...]."
              .formatted(at, bucket, fits.get(0), fits.get(1)));
    }
    return fits.get(0);
  }

  private boolean isAt(int bucket, long at, ModelWeights.Weight weight) throws IOException {
    DType master = flat(0, bucket).dtype();
    long piece = piece(weight.elements());
    for (int rank = 0; rank * piece < weight.elements(); rank++) {
      long start = rank * piece;
      long end = Math.min(piece, weight.elements() - start);
      for (long from = 0; from < end; ) {
        long length = Math.min(SAMPLE, end - from);
        ByteBuffer weights =
            read(
                weight.address().plus((start + from) * weight.dtype().bytes()),
                length * weight.dtype().bytes());
        if (WeightCast.firstMismatch(
                masters(rank, bucket, at + from, length), master, weights, weight.dtype())
            >= 0) {
          return false;
        }
        from = from == 0 && end > 2 * SAMPLE ? end - SAMPLE : from + length;
      }
    }
    return true;
  }

  private ByteBuffer masters(int rank, int bucket, long at, long elements) throws IOException {
    Shard shard = shards.get(rank);
    TensorNode flat = flat(rank, bucket);
    Address begin =
        reading.address(shard.source(), shard.file(), states.flatGroups().where(), flat);
    return read(begin.plus(at * flat.dtype().bytes()), elements * flat.dtype().bytes());
  }

  private ByteBuffer read(Address address, long bytes) throws IOException {
    return reading
        .store()
        .read(reading.sources().get(address.file()).stat(), address.offset(), bytes);
  }
}
