package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.DType;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;

/**
 * Puts the checksums of slices together in the order of the full tensor: a digest that does not
 * depend on how many ranks held it.
 */
final class DigestTensors
    extends PTransform<
        PCollection<KV<Keyed<Integer>, Packed<TensorCrc>>>, PCollection<Keyed<Outcome>>> {
  private static final long serialVersionUID = 1L;

  private final Reshards reshards;

  DigestTensors(Reshards reshards) {
    this.reshards = reshards;
  }

  @Override
  public PCollection<Keyed<Outcome>> expand(
      PCollection<KV<Keyed<Integer>, Packed<TensorCrc>>> runs) {
    return runs.apply("ByParameter", new Gather<>(reshards, new AllOfTensors()))
        .apply("DigestTensor", ParDo.of(new DigestTensor(reshards)))
        .setCoder(Keyed.coder(Coders.OUTCOME));
  }

  /** Whole when every byte of every full tensor of a key was moved. */
  private static final class AllOfTensors implements Gather.Measure<Integer, Packed<TensorCrc>> {
    private static final long serialVersionUID = 1L;

    @Override
    public long expected(PlannedReshard planned, Integer key) {
      return bytesOf(planned.plan(), planned.index(), key);
    }

    @Override
    public long count(Packed<TensorCrc> runs) {
      return runs.counts();
    }
  }

  /** Bytes of all full tensors of a key that are moved. */
  private static long bytesOf(ReshardPlan plan, PlanIndex index, int key) {
    long[] sum = new long[1];
    forEachTensor(plan, index, key, (tensor, bytes) -> sum[0] += bytes);
    return sum[0];
  }

  /** How many keys have something to move. */
  static int keysWithBytes(PlannedReshard planned) {
    int keys = 0;
    PlanIndex index = planned.index();
    for (int key = 0; index.keys().first(key) < index.places().size(); key++) {
      keys += bytesOf(planned.plan(), index, key) > 0 ? 1 : 0;
    }
    return keys;
  }

  private static final class DigestTensor
      extends DoFn<KV<Keyed<Integer>, Iterable<Packed<TensorCrc>>>, Keyed<Outcome>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    DigestTensor(Reshards reshards) {
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @ProcessElement
    public void process(
        @Element KV<Keyed<Integer>, Iterable<Packed<TensorCrc>>> runs,
        OutputReceiver<Keyed<Outcome>> out)
        throws IOException {
      int key = runs.getKey().item();
      String reshard = runs.getKey().reshard();
      Map<Tensor, List<SliceCrc>> byTensor = new HashMap<>();
      SortedMap<Integer, Long> mismatches = new TreeMap<>();
      for (Packed<TensorCrc> packed : runs.getValue()) {
        packed.forEach(
            Coders.TENSOR_CRC,
            run -> {
              byTensor
                  .computeIfAbsent(new Tensor(run.parameter(), run.state()), t -> new ArrayList<>())
                  .add(run.crc());
              if (run.mismatch() != TensorCrc.NONE) {
                mismatches.merge(run.parameter(), run.mismatch(), Math::min);
              }
            });
      }
      List<Outcome.Mismatch> shown = new ArrayList<>();
      mismatches.forEach((parameter, at) -> shown.add(new Outcome.Mismatch(parameter, at)));
      finder.run(
          reshard,
          planned -> {
            List<Integer> digests = new ArrayList<>();
            forEachTensor(
                planned.plan(),
                planned.index(),
                key,
                (tensor, bytes) ->
                    digests.add(
                        digest(
                            planned.index(),
                            tensor,
                            bytes,
                            byTensor.getOrDefault(tensor, List.of()))));
            out.output(new Keyed<>(reshard, new Outcome.Digests(key, digests, shown)));
          });
    }

    private static int digest(PlanIndex index, Tensor tensor, long bytes, List<SliceCrc> runs) {
      SliceCrc.Sum sum = SliceCrc.sum(0, bytes, runs);
      if (sum instanceof SliceCrc.Sum.Broken broken) {
        throw new IllegalStateException(
            "state '%s' of parameter %s: expected the next slice at byte %d of the full tensor, found it at %d; the plan is wrong"
                .formatted(
                    tensor.state(),
                    index.id(tensor.parameter()),
                    broken.expected(),
                    broken.found()));
      }
      return ((SliceCrc.Sum.Whole) sum).crc32();
    }
  }

  /** A full tensor, its parameter as a number in the plan. */
  private record Tensor(int parameter, String state) {}

  /** Hears of a full tensor that is moved. */
  private interface Tensors {
    void tensor(Tensor tensor, long bytes);
  }

  /** Every full tensor of a key, in the order of the plan; nothing if there is no such key. */
  private static void forEachTensor(ReshardPlan plan, PlanIndex index, int key, Tensors tensors) {
    ParameterKeys keys = index.keys();
    for (int ordinal = keys.first(key);
        ordinal < Math.min(index.places().size(), keys.first(key + 1));
        ordinal++) {
      PlanIndex.Place place = index.places().get(ordinal);
      PartitionedModel model = plan.models().get(place.model());
      long elements = model.parameters().get(place.parameter()).elements();
      for (Map.Entry<String, DType> state :
          Repartition.movedStates(model, place.parameter()).entrySet()) {
        tensors.tensor(
            new Tensor(ordinal, state.getKey()), elements * (long) state.getValue().bytes());
      }
    }
  }

  /**
   * The digests of all full tensors in the order of the plan.
   *
   * @param byKey those that came out; a key all of whose tensors are empty has none
   * @throws IllegalStateException if a tensor was not moved
   */
  static List<Integer> inOrder(PlannedReshard planned, Map<Integer, List<Integer>> byKey) {
    ReshardPlan plan = planned.plan();
    PlanIndex index = planned.index();
    List<Integer> digests = new ArrayList<>();
    for (int key = 0; index.keys().first(key) < index.places().size(); key++) {
      List<Integer> found = byKey.get(key);
      if (found != null) {
        digests.addAll(found);
        continue;
      }
      forEachTensor(
          plan,
          index,
          key,
          (tensor, bytes) -> {
            if (bytes > 0) {
              throw new IllegalStateException(
                  "state '%s' of parameter %s was not moved; nothing was published"
                      .formatted(tensor.state(), index.id(tensor.parameter())));
            }
            digests.add(0);
          });
    }
    return digests;
  }
}
