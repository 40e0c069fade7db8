package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.SliceCopy;
import org.apache.beam.sdk.transforms.Flatten;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionList;

/**
 * All that plans move, by the part of the file that it goes to: the slices of full tensors, cut for
 * the target's ranks, and what is carried over.
 */
public final class Slices
    extends PTransform<PCollection<Keyed<PlanItem>>, PCollection<KV<Keyed<PartId>, SliceCopy>>> {
  private static final long serialVersionUID = 1L;

  private final Reshards reshards;

  private Slices(Reshards reshards) {
    this.reshards = reshards;
  }

  /** The slices of {@code reshards}. */
  public static Slices of(Reshards reshards) {
    return new Slices(reshards);
  }

  @Override
  public PCollection<KV<Keyed<PartId>, SliceCopy>> expand(PCollection<Keyed<PlanItem>> items) {
    return PCollectionList.of(
            items
                .apply("ReadShards", new ReadShards(reshards))
                .apply("AssembleParameters", new AssembleParameters(reshards))
                .apply("RepartitionToRanks", new RepartitionToRanks(reshards)))
        .and(items.apply("CarryOver", new CarryOver(reshards)))
        .apply("Both", Flatten.pCollections());
  }
}
