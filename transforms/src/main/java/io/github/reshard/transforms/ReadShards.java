package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.PartitionedModel;
import java.util.List;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.transforms.Create;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PBegin;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * Says of each shard which elements of which parameters it holds and where they are. The headers
 * were read when the job was planned; here they are spread out, one element for each parameter and
 * rank.
 */
public final class ReadShards extends PTransform<PBegin, PCollection<KV<ParamId, RankSlice>>> {
  private static final long serialVersionUID = 1L;

  private final PCollectionView<ReshardPlan> plan;
  private final List<ShardId> shards;

  /**
   * @param plan the plan that the shards are of
   */
  public ReadShards(PCollectionView<ReshardPlan> plan, List<ShardId> shards) {
    this.plan = plan;
    this.shards = List.copyOf(shards);
  }

  @Override
  public PCollection<KV<ParamId, RankSlice>> expand(PBegin begin) {
    return begin
        .apply("Shards", Create.of(shards).withCoder(Coders.SHARD_ID))
        .apply("ReadShard", ParDo.of(new ReadShard(plan)).withSideInputs(plan))
        .setCoder(KvCoder.of(Coders.PARAM_ID, Coders.RANK_SLICE));
  }

  private static final class ReadShard extends DoFn<ShardId, KV<ParamId, RankSlice>> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;

    ReadShard(PCollectionView<ReshardPlan> planView) {
      this.planView = planView;
    }

    @ProcessElement
    public void process(
        @Element ShardId shard,
        OutputReceiver<KV<ParamId, RankSlice>> out,
        ProcessContext context) {
      ReshardPlan plan = context.sideInput(planView);
      PartitionedModel model = plan.models().get(shard.model());
      if (shard.rank() == RankSlice.WHOLE) {
        for (int p = 0; p < model.parameters().size(); p++) {
          for (RankSlice slice : Repartition.moduleSlices(model, p)) {
            out.output(KV.of(model.id(plan.checkpoint(), p), slice));
          }
        }
      } else {
        Repartition.slicesOfRank(
            model,
            shard.rank(),
            (slice, p) -> out.output(KV.of(model.id(plan.checkpoint(), p), slice)));
      }
    }
  }
}
