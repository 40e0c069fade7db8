package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.Cut;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.UnusedBytes;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.transforms.Create;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.Flatten;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PBegin;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionList;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * The slices that belong to no parameter: storages and files that are copied whole, the padding of
 * the target's partitions, and the source bytes that go nowhere but have to be proven.
 */
public final class CarryOver extends PTransform<PBegin, PCollection<KV<PartId, SliceCopy>>> {
  private static final long serialVersionUID = 1L;

  private final PCollectionView<ReshardPlan> planView;
  private final List<ShardId> targetShards;
  private final int sources;

  /**
   * @param planView the plan
   * @param plan the same plan, for the number of things to do
   */
  public CarryOver(PCollectionView<ReshardPlan> planView, ReshardPlan plan) {
    this.planView = planView;
    this.sources = plan.sources().size();
    this.targetShards = new ArrayList<>();
    for (int m = 0; m < plan.models().size(); m++) {
      for (int rank = 0; rank < plan.models().get(m).target().worldSize(); rank++) {
        targetShards.add(new ShardId(m, rank));
      }
    }
    // One more for what no rank owns.
    targetShards.add(new ShardId(0, RankSlice.WHOLE));
  }

  @Override
  public PCollection<KV<PartId, SliceCopy>> expand(PBegin begin) {
    List<Integer> sourceFiles = new ArrayList<>();
    for (int s = 0; s < sources; s++) {
      sourceFiles.add(s);
    }
    PCollection<KV<PartId, SliceCopy>> carried =
        begin
            .apply("TargetShards", Create.of(targetShards).withCoder(Coders.SHARD_ID))
            .apply(
                "CarriedAndPadding",
                ParDo.of(new CarriedAndPadding(planView)).withSideInputs(planView))
            .setCoder(KvCoder.of(Coders.PART_ID, Coders.SLICE_COPY));
    PCollection<KV<PartId, SliceCopy>> unused =
        begin
            .apply("SourceFiles", Create.of(sourceFiles).withCoder(VarIntCoder.of()))
            .apply("Unused", ParDo.of(new Unused(planView)).withSideInputs(planView))
            .setCoder(KvCoder.of(Coders.PART_ID, Coders.SLICE_COPY));
    return PCollectionList.of(carried).and(unused).apply(Flatten.pCollections());
  }

  private static Consumer<SliceCopy> cut(
      ReshardPlan plan, DoFn.OutputReceiver<KV<PartId, SliceCopy>> out) {
    return slice ->
        Cut.intoParts(slice, plan.partBytes(), (part, piece) -> out.output(KV.of(part, piece)));
  }

  private static final class CarriedAndPadding extends DoFn<ShardId, KV<PartId, SliceCopy>> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;

    CarriedAndPadding(PCollectionView<ReshardPlan> planView) {
      this.planView = planView;
    }

    @ProcessElement
    public void process(
        @Element ShardId shard, OutputReceiver<KV<PartId, SliceCopy>> out, ProcessContext context) {
      ReshardPlan plan = context.sideInput(planView);
      if (shard.rank() == RankSlice.WHOLE) {
        plan.carried().forEach(cut(plan, out));
      } else {
        Repartition.targetPadding(plan, shard.model(), shard.rank(), cut(plan, out));
      }
    }
  }

  private static final class Unused extends DoFn<Integer, KV<PartId, SliceCopy>> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;

    Unused(PCollectionView<ReshardPlan> planView) {
      this.planView = planView;
    }

    @ProcessElement
    public void process(
        @Element Integer file, OutputReceiver<KV<PartId, SliceCopy>> out, ProcessContext context) {
      ReshardPlan plan = context.sideInput(planView);
      UnusedBytes.of(plan, file).forEach(cut(plan, out));
    }
  }
}
