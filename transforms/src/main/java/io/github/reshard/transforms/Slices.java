package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import java.util.List;
import org.apache.beam.sdk.transforms.Flatten;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PBegin;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionList;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * All that a plan moves, by the part of the file that it goes to: the slices of full tensors, cut
 * for the target's ranks, and what is carried over.
 */
public final class Slices extends PTransform<PBegin, PCollection<KV<PartId, SliceCopy>>> {
  private static final long serialVersionUID = 1L;

  private final PCollectionView<ReshardPlan> view;
  private final ReshardPlan plan;
  private final List<ShardId> shards;

  private Slices(PCollectionView<ReshardPlan> view, ReshardPlan plan, List<ShardId> shards) {
    this.view = view;
    this.plan = plan;
    this.shards = shards;
  }

  /**
   * The slices of {@code plan}.
   *
   * @param view the same plan
   */
  public static Slices of(ReshardPlan plan, PCollectionView<ReshardPlan> view) {
    return new Slices(view, plan, ShardId.allOf(plan));
  }

  /** These, of {@code shards} alone and in their order. */
  public Slices ofShards(List<ShardId> shards) {
    return new Slices(view, plan, List.copyOf(shards));
  }

  @Override
  public PCollection<KV<PartId, SliceCopy>> expand(PBegin begin) {
    return PCollectionList.of(
            begin
                .apply("ReadShards", new ReadShards(view, shards))
                .apply("AssembleParameters", new AssembleParameters(view))
                .apply("RepartitionToRanks", new RepartitionToRanks(view)))
        .and(begin.apply("CarryOver", new CarryOver(view, plan)))
        .apply("Both", Flatten.pCollections());
  }
}
