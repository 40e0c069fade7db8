package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.Cut;
import io.github.reshard.checkpoint.plan.ParameterTensor;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionView;

/** Cuts full tensors along the partitions of the target's ranks, and at the boundaries of parts. */
public final class RepartitionToRanks
    extends PTransform<PCollection<ParameterTensor>, PCollection<KV<PartId, SliceCopy>>> {
  private static final long serialVersionUID = 1L;

  private final PCollectionView<ReshardPlan> plan;

  /**
   * @param plan has the target's layout
   */
  public RepartitionToRanks(PCollectionView<ReshardPlan> plan) {
    this.plan = plan;
  }

  @Override
  public PCollection<KV<PartId, SliceCopy>> expand(PCollection<ParameterTensor> tensors) {
    return tensors
        .apply("Repartition", ParDo.of(new RepartitionTensor(plan)).withSideInputs(plan))
        .setCoder(KvCoder.of(Coders.PART_ID, Coders.SLICE_COPY));
  }

  private static final class RepartitionTensor
      extends DoFn<ParameterTensor, KV<PartId, SliceCopy>> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;
    private transient PlanIndex index;

    RepartitionTensor(PCollectionView<ReshardPlan> planView) {
      this.planView = planView;
    }

    @ProcessElement
    public void process(
        @Element ParameterTensor tensor,
        OutputReceiver<KV<PartId, SliceCopy>> out,
        ProcessContext context) {
      ReshardPlan plan = context.sideInput(planView);
      index = PlanIndex.of(plan, index);
      PlanIndex.Place place = index.find(tensor.id());
      Repartition.copies(
          plan.models().get(place.model()),
          place.parameter(),
          tensor,
          copy ->
              Cut.intoParts(
                  copy, plan.partBytes(), (part, piece) -> out.output(KV.of(part, piece))));
    }
  }
}
