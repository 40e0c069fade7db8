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
 * order of the source, are the CRC-32 that the source's zip directory recorded.
 */
final class ProveSources
    extends PTransform<PCollection<KV<Integer, EntryCrc>>, PCollection<Outcome>> {
  private static final long serialVersionUID = 1L;

  private final PCollectionView<ReshardPlan> plan;

  ProveSources(PCollectionView<ReshardPlan> plan) {
    this.plan = plan;
  }

  @Override
  public PCollection<Outcome> expand(PCollection<KV<Integer, EntryCrc>> read) {
    return read.apply("BySourceFile", GroupByKey.create())
        .apply("ProveFile", ParDo.of(new ProveFile(plan)).withSideInputs(plan))
        .setCoder(Coders.OUTCOME);
  }

  private static final class ProveFile extends DoFn<KV<Integer, Iterable<EntryCrc>>, Outcome> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;

    ProveFile(PCollectionView<ReshardPlan> planView) {
      this.planView = planView;
    }

    @ProcessElement
    public void process(
        @Element KV<Integer, Iterable<EntryCrc>> runs,
        OutputReceiver<Outcome> out,
        ProcessContext context) {
      ReshardPlan plan = context.sideInput(planView);
      SourceFile file = plan.sources().get(runs.getKey());
      List<List<SliceCrc>> byEntry = new ArrayList<>();
      file.entries().forEach(entry -> byEntry.add(new ArrayList<>()));
      for (EntryCrc run : runs.getValue()) {
        byEntry.get(run.entry()).add(run.crc());
      }
      for (int e = 0; e < byEntry.size(); e++) {
        prove(plan, new EntryId(runs.getKey(), e), byEntry.get(e));
      }
      out.output(new Outcome.Proven(runs.getKey()));
    }

    private static void prove(ReshardPlan plan, EntryId id, List<SliceCrc> runs) {
      SourceFile file = plan.sources().get(id.file());
      TorchFile.Entry entry = file.entries().get(id.entry());
      SliceCrc.Sum sum = SliceCrc.sum(entry.payloadOffset(), entry.bytes(), runs);
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
    }
  }
}
