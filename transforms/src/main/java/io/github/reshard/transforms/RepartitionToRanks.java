package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.Cut;
import io.github.reshard.checkpoint.plan.ParameterTensor;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import java.io.IOException;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;

/** Cuts full tensors along the partitions of the target's ranks, and at the boundaries of parts. */
public final class RepartitionToRanks
    extends PTransform<
        PCollection<Keyed<ParameterTensor>>, PCollection<KV<Keyed<PartId>, SliceCopy>>> {
  private static final long serialVersionUID = 1L;

  private final Reshards reshards;

  /**
   * @param reshards their plans have the target's layout
   */
  public RepartitionToRanks(Reshards reshards) {
    this.reshards = reshards;
  }

  @Override
  public PCollection<KV<Keyed<PartId>, SliceCopy>> expand(
      PCollection<Keyed<ParameterTensor>> tensors) {
    return tensors
        .apply("Repartition", ParDo.of(new RepartitionTensor(reshards)))
        .setCoder(KvCoder.of(Keyed.coder(Coders.PART_ID), Coders.SLICE_COPY));
  }

  private static final class RepartitionTensor
      extends DoFn<Keyed<ParameterTensor>, KV<Keyed<PartId>, SliceCopy>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    RepartitionTensor(Reshards reshards) {
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @ProcessElement
    public void process(
        @Element Keyed<ParameterTensor> tensor, OutputReceiver<KV<Keyed<PartId>, SliceCopy>> out)
        throws IOException {
      String reshard = tensor.reshard();
      finder.run(
          reshard,
          planned -> {
            ReshardPlan plan = planned.plan();
            PlanIndex.Place place = planned.index().find(tensor.item().id());
            Repartition.copies(
                plan.models().get(place.model()),
                place.parameter(),
                tensor.item(),
                copy ->
                    Cut.intoParts(
                        copy,
                        plan.partBytes(),
                        (part, piece) -> out.output(KV.of(new Keyed<>(reshard, part), piece))));
          });
    }
  }
}
