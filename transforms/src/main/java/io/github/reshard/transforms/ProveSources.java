package io.github.reshard.transforms;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.plan.EntryContents;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.List;
import java.util.SortedMap;
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
    extends PTransform<
        PCollection<KV<Keyed<Integer>, Packed<EntryCrc>>>, PCollection<Keyed<Outcome>>> {
  private static final long serialVersionUID = 1L;

  private final Reshards reshards;

  ProveSources(Reshards reshards) {
    this.reshards = reshards;
  }

  @Override
  public PCollection<Keyed<Outcome>> expand(
      PCollection<KV<Keyed<Integer>, Packed<EntryCrc>>> read) {
    return read.apply("BySourceFile", new Gather<>(reshards, new AllOfFiles()))
        .apply("ProveFile", ParDo.of(new ProveFile(reshards)))
        .setCoder(Keyed.coder(Coders.OUTCOME));
  }

  /** Whole when every byte of payload was read. */
  private static final class AllOfFiles implements Gather.Measure<Integer, Packed<EntryCrc>> {
    private static final long serialVersionUID = 1L;

    @Override
    public long expected(PlannedReshard planned, Integer key) {
      return planned.index().sourcesOf(key).stream()
          .mapToLong(file -> bytes(planned.plan().sources().get(file)))
          .sum();
    }

    @Override
    public long count(Packed<EntryCrc> runs) {
      return runs.counts();
    }
  }

  /** The bytes of all entries. */
  private static long bytes(SourceFile file) {
    return file.entries().stream().mapToLong(TorchFile.Entry::bytes).sum();
  }

  private static final class ProveFile
      extends DoFn<KV<Keyed<Integer>, Iterable<Packed<EntryCrc>>>, Keyed<Outcome>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    ProveFile(Reshards reshards) {
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @ProcessElement
    public void process(
        @Element KV<Keyed<Integer>, Iterable<Packed<EntryCrc>>> runs,
        OutputReceiver<Keyed<Outcome>> out)
        throws IOException {
      String reshard = runs.getKey().reshard();
      finder.run(
          reshard,
          planned -> {
            ReshardPlan plan = planned.plan();
            SortedMap<Integer, List<List<SliceCrc>>> byFile =
                EntryRuns.byFile(
                    runs.getValue(),
                    planned.index().sourcesOf(runs.getKey().item()),
                    file -> plan.sources().get(file).entries().size());
            byFile.forEach((file, byEntry) -> prove(plan, file, byEntry));
            for (int file : byFile.keySet()) {
              if (bytes(plan.sources().get(file)) > 0) {
                out.output(new Keyed<>(reshard, new Outcome.Proven(file)));
              }
            }
          });
    }

    private static void prove(ReshardPlan plan, int file, List<List<SliceCrc>> byEntry) {
      for (int e = 0; e < byEntry.size(); e++) {
        prove(plan, new EntryId(file, e), byEntry.get(e));
      }
    }

    private static void prove(ReshardPlan plan, EntryId id, List<SliceCrc> runs) {
      SourceFile file = plan.sources().get(id.file());
      TorchFile.Entry entry = file.entries().get(id.entry());
      String where = file.stat().path() + ", entry " + entry.name();
      int crc = EntryRuns.crc32(where, entry.payloadOffset(), entry.bytes(), runs);
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
