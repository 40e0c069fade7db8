package io.github.reshard.transforms;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.plan.EntryContents;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.List;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * Proves that what was read is what was saved: the checksums of all slices of an entry, in the
 * order of the source, are the CRC-32 that the source's zip directory recorded. An entry comes out
 * once it is proven.
 */
final class ProveSources
    extends PTransform<PCollection<KV<EntryId, SliceCrc>>, PCollection<EntryId>> {
  private static final long serialVersionUID = 1L;

  private final PCollectionView<ReshardPlan> plan;

  ProveSources(PCollectionView<ReshardPlan> plan) {
    this.plan = plan;
  }

  @Override
  public PCollection<EntryId> expand(PCollection<KV<EntryId, SliceCrc>> read) {
    return read.apply("BySourceEntry", GroupByKey.create())
        .apply("ProveEntry", ParDo.of(new ProveEntry(plan)).withSideInputs(plan))
        .setCoder(Coders.ENTRY_ID);
  }

  private static final class ProveEntry extends DoFn<KV<EntryId, Iterable<SliceCrc>>, EntryId> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;

    ProveEntry(PCollectionView<ReshardPlan> planView) {
      this.planView = planView;
    }

    @ProcessElement
    public void process(
        @Element KV<EntryId, Iterable<SliceCrc>> runs,
        OutputReceiver<EntryId> out,
        ProcessContext context) {
      ReshardPlan plan = context.sideInput(planView);
      EntryId id = runs.getKey();
      SourceFile file = plan.sources().get(id.file());
      TorchFile.Entry entry = file.entries().get(id.entry());
      List<SliceCrc> all = new ArrayList<>();
      runs.getValue().forEach(all::add);
      SliceCrc.Sum sum = SliceCrc.sum(entry.payloadOffset(), entry.bytes(), all);
      String where = file.stat().path() + ", entry " + entry.name();
      if (sum instanceof SliceCrc.Sum.Broken broken) {
        throw new IllegalStateException(
            "%s: expected the next slice at byte %d, found it at %d; the plan is wrong"
                .formatted(where, broken.expected(), broken.found()));
      }
      int crc = ((SliceCrc.Sum.Whole) sum).crc32();
      if (file.hasCrcs() && crc != entry.crc32()) {
        throw new RefusedException(
            where,
            "the bytes have the CRC-32 %08x, the file says %08x.%s The file is damaged; restore it from a copy."
                .formatted(
                    crc, entry.crc32(), EntryContents.sentence(plan, id.file(), id.entry())));
      }
      out.output(id);
    }
  }
}
