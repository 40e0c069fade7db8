package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.Cut;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.UnusedBytes;
import java.io.IOException;
import java.util.function.Consumer;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;

/**
 * The slices that belong to no parameter: storages and files that are copied whole, the padding of
 * the target's partitions, and the source bytes that go nowhere but have to be proven.
 */
public final class CarryOver
    extends PTransform<PCollection<Keyed<PlanItem>>, PCollection<KV<Keyed<PartId>, SliceCopy>>> {
  private static final long serialVersionUID = 1L;

  private final Reshards reshards;

  /**
   * @param reshards what the items are of
   */
  public CarryOver(Reshards reshards) {
    this.reshards = reshards;
  }

  @Override
  public PCollection<KV<Keyed<PartId>, SliceCopy>> expand(PCollection<Keyed<PlanItem>> items) {
    return items
        .apply("CarryItem", ParDo.of(new CarryItem(reshards)))
        .setCoder(KvCoder.of(Keyed.coder(Coders.PART_ID), Coders.SLICE_COPY));
  }

  private static final class CarryItem extends DoFn<Keyed<PlanItem>, KV<Keyed<PartId>, SliceCopy>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    CarryItem(Reshards reshards) {
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @ProcessElement
    public void process(
        @Element Keyed<PlanItem> element, OutputReceiver<KV<Keyed<PartId>, SliceCopy>> out)
        throws IOException {
      PlanItem item = element.item();
      if (item.kind() != PlanItem.Kind.TARGET_SHARD && item.kind() != PlanItem.Kind.SOURCE_FILE) {
        return;
      }
      finder.run(
          element.reshard(),
          planned -> {
            ReshardPlan plan = planned.plan();
            Consumer<SliceCopy> cut =
                slice ->
                    Cut.intoParts(
                        slice,
                        plan.partBytes(),
                        (part, piece) ->
                            out.output(KV.of(new Keyed<>(element.reshard(), part), piece)));
            if (item.kind() == PlanItem.Kind.SOURCE_FILE) {
              UnusedBytes.of(plan, item.number()).forEach(cut);
            } else if (item.number() == RankSlice.WHOLE) {
              plan.carried().forEach(cut);
            } else {
              Repartition.targetPadding(plan, item.model(), item.number(), cut);
            }
          });
    }
  }
}
