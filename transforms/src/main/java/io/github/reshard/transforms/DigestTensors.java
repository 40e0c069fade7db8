package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.DType;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * Puts the checksums of slices together in the order of the full tensor: a digest that does not
 * depend on how many ranks held it.
 */
final class DigestTensors
    extends PTransform<PCollection<KV<Integer, TensorCrc>>, PCollection<Outcome>> {
  private static final long serialVersionUID = 1L;

  private final PCollectionView<ReshardPlan> plan;

  DigestTensors(PCollectionView<ReshardPlan> plan) {
    this.plan = plan;
  }

  @Override
  public PCollection<Outcome> expand(PCollection<KV<Integer, TensorCrc>> runs) {
    return runs.apply("ByParameter", GroupByKey.create())
        .apply("DigestTensor", ParDo.of(new DigestTensor(plan)).withSideInputs(plan))
        .setCoder(Coders.OUTCOME);
  }

  private static final class DigestTensor extends DoFn<KV<Integer, Iterable<TensorCrc>>, Outcome> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;
    private transient PlanIndex index;

    DigestTensor(PCollectionView<ReshardPlan> planView) {
      this.planView = planView;
    }

    @ProcessElement
    public void process(
        @Element KV<Integer, Iterable<TensorCrc>> runs,
        OutputReceiver<Outcome> out,
        ProcessContext context) {
      ReshardPlan plan = context.sideInput(planView);
      index = PlanIndex.of(plan, index);
      Map<Tensor, List<SliceCrc>> byTensor = new HashMap<>();
      for (TensorCrc run : runs.getValue()) {
        byTensor
            .computeIfAbsent(new Tensor(run.parameter(), run.state()), t -> new ArrayList<>())
            .add(run.crc());
      }
      List<Integer> digests = new ArrayList<>();
      forEachTensor(
          plan,
          index,
          runs.getKey(),
          (tensor, bytes) ->
              digests.add(digest(tensor, bytes, byTensor.getOrDefault(tensor, List.of()))));
      out.output(new Outcome.Digests(runs.getKey(), digests));
    }

    private int digest(Tensor tensor, long bytes, List<SliceCrc> runs) {
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
  static List<Integer> inOrder(ReshardPlan plan, Map<Integer, List<Integer>> byKey) {
    PlanIndex index = PlanIndex.of(plan, null);
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
