package io.github.reshard.transforms;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.plan.EntryContents;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;

/**
 * Proves that what was read is what was saved: the checksums of all slices of an entry, in the
 * order of the source, are the CRC-32 that the source's zip directory recorded.
 */
final class ProveSources
    extends PTransform<PCollection<KV<Keyed<Integer>, EntryCrc>>, PCollection<Keyed<Outcome>>> {
  private static final long serialVersionUID = 1L;

  private final Reshards reshards;

  ProveSources(Reshards reshards) {
    this.reshards = reshards;
  }

  @Override
  public PCollection<Keyed<Outcome>> expand(PCollection<KV<Keyed<Integer>, EntryCrc>> read) {
    return read.apply("BySourceFile", new Gather<>(reshards, new AllOfFile()))
        .apply("ProveFile", ParDo.of(new ProveFile(reshards)))
        .setCoder(Keyed.coder(Coders.OUTCOME));
  }

  /** Whole when every byte of payload was read. */
  private static final class AllOfFile implements Gather.Measure<Integer, EntryCrc> {
    private static final long serialVersionUID = 1L;

    @Override
    public long expected(PlannedReshard planned, Integer file) {
      return planned.plan().sources().get(file).entries().stream()
          .mapToLong(TorchFile.Entry::bytes)
          .sum();
    }

    @Override
    public long count(EntryCrc run) {
      return run.crc().bytes();
    }
  }

  private static final class ProveFile
      extends DoFn<KV<Keyed<Integer>, Iterable<EntryCrc>>, Keyed<Outcome>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    ProveFile(Reshards reshards) {
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @ProcessElement
    public void process(
        @Element KV<Keyed<Integer>, Iterable<EntryCrc>> runs, OutputReceiver<Keyed<Outcome>> out)
        throws IOException {
      int number = runs.getKey().item();
      String reshard = runs.getKey().reshard();
      finder.run(
          reshard,
          planned -> {
            ReshardPlan plan = planned.plan();
            List<List<SliceCrc>> byEntry = new ArrayList<>();
            plan.sources().get(number).entries().forEach(entry -> byEntry.add(new ArrayList<>()));
            for (EntryCrc run : runs.getValue()) {
              byEntry.get(run.entry()).add(run.crc());
            }
            for (int e = 0; e < byEntry.size(); e++) {
              prove(plan, new EntryId(number, e), byEntry.get(e));
            }
            out.output(new Keyed<>(reshard, new Outcome.Proven(number)));
          });
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
