package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.PartitionedModel;
import java.io.IOException;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;

/**
 * Says of each shard which elements of which parameters it holds and where they are. The headers
 * were read when the reshard was planned; here they are spread out, one element for each parameter
 * and rank.
 */
public final class ReadShards
    extends PTransform<PCollection<Keyed<PlanItem>>, PCollection<KV<Keyed<ParamId>, RankSlice>>> {
  private static final long serialVersionUID = 1L;

  private final Reshards reshards;

  /**
   * @param reshards what the shards are of
   */
  public ReadShards(Reshards reshards) {
    this.reshards = reshards;
  }

  @Override
  public PCollection<KV<Keyed<ParamId>, RankSlice>> expand(PCollection<Keyed<PlanItem>> items) {
    return items
        .apply("ReadShard", ParDo.of(new ReadShard(reshards)))
        .setCoder(KvCoder.of(Keyed.coder(Coders.PARAM_ID), Coders.RANK_SLICE));
  }

  private static final class ReadShard
      extends DoFn<Keyed<PlanItem>, KV<Keyed<ParamId>, RankSlice>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    ReadShard(Reshards reshards) {
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @ProcessElement
    public void process(
        @Element Keyed<PlanItem> element, OutputReceiver<KV<Keyed<ParamId>, RankSlice>> out)
        throws IOException {
      PlanItem shard = element.item();
      if (shard.kind() != PlanItem.Kind.SOURCE_SHARD) {
        return;
      }
      finder.run(
          element.reshard(),
          planned -> {
            ReshardPlan plan = planned.plan();
            PartitionedModel model = plan.models().get(shard.model());
            if (shard.number() == RankSlice.WHOLE) {
              for (int p = 0; p < model.parameters().size(); p++) {
                for (RankSlice slice : Repartition.moduleSlices(model, p)) {
                  out.output(KV.of(id(element, plan, model, p), slice));
                }
              }
            } else {
              Repartition.slicesOfRank(
                  model,
                  shard.number(),
                  (slice, p) -> out.output(KV.of(id(element, plan, model, p), slice)));
            }
          });
    }

    private static Keyed<ParamId> id(
        Keyed<PlanItem> element, ReshardPlan plan, PartitionedModel model, int parameter) {
      return new Keyed<>(element.reshard(), model.id(plan.checkpoint(), parameter));
    }
  }
}
