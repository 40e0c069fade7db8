package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.function.BiConsumer;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.Flatten;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionList;

/**
 * Writes what surrounds the payloads of a target file (pickle, zip headers and directory, with the
 * CRCs of what was written) and makes the file durable.
 */
final class FinishFiles
    extends PTransform<
        PCollection<KV<Keyed<Integer>, Packed<EntryCrc>>>, PCollection<Keyed<Outcome>>> {
  private static final long serialVersionUID = 1L;

  private final Reshards reshards;
  private final PCollection<Keyed<PlanItem>> items;

  /**
   * @param items the files that there are, among others
   */
  FinishFiles(Reshards reshards, PCollection<Keyed<PlanItem>> items) {
    this.reshards = reshards;
    this.items = items;
  }

  @Override
  public PCollection<Keyed<Outcome>> expand(
      PCollection<KV<Keyed<Integer>, Packed<EntryCrc>>> written) {
    PCollection<KV<Keyed<Integer>, Packed<EntryCrc>>> every =
        items
            .apply("EveryFile", ParDo.of(new EveryFile(reshards)))
            .setCoder(KvCoder.of(Keyed.coder(VarIntCoder.of()), Packed.coder()));
    return PCollectionList.of(written)
        .and(every)
        .apply(Flatten.pCollections())
        .apply("ByTargetFile", new Gather<>(reshards, new AllOfFiles()))
        .apply("FinishFile", ParDo.of(new FinishFile(reshards)))
        .setCoder(Keyed.coder(Coders.OUTCOME));
  }

  /** Whole when every byte of payload was written; the file itself counts one. */
  private static final class AllOfFiles implements Gather.Measure<Integer, Packed<EntryCrc>> {
    private static final long serialVersionUID = 1L;

    @Override
    public long expected(PlannedReshard planned, Integer key) {
      long expected = 0;
      for (int file : planned.index().targetsOf(key)) {
        expected += 1;
        for (TargetFile.Entry entry : planned.plan().targets().get(file).entries()) {
          expected += entry.bytes();
        }
      }
      return expected;
    }

    @Override
    public long count(Packed<EntryCrc> runs) {
      return runs.counts();
    }
  }

  private static final class EveryFile
      extends DoFn<Keyed<PlanItem>, KV<Keyed<Integer>, Packed<EntryCrc>>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    EveryFile(Reshards reshards) {
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @ProcessElement
    public void process(
        @Element Keyed<PlanItem> item, OutputReceiver<KV<Keyed<Integer>, Packed<EntryCrc>>> out)
        throws IOException {
      if (item.item().kind() != PlanItem.Kind.TARGET_FILE) {
        return;
      }
      finder.run(
          item.reshard(),
          planned -> {
            int file = item.item().number();
            Packed.Packing<Integer, EntryCrc> packing = new Packed.Packing<>(Coders.ENTRY_CRC);
            BiConsumer<Integer, Packed<EntryCrc>> emit =
                (key, packed) -> out.output(KV.of(new Keyed<>(item.reshard(), key), packed));
            packing.add(
                planned.index().targetKey(file),
                new EntryCrc(file, EntryRuns.OF_NO_ENTRY, new SliceCrc(0, 0, 0)),
                1,
                emit);
            packing.finish(emit);
          });
    }
  }

  private static final class FinishFile
      extends DoFn<KV<Keyed<Integer>, Iterable<Packed<EntryCrc>>>, Keyed<Outcome>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    FinishFile(Reshards reshards) {
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
            SortedMap<Integer, List<List<SliceCrc>>> byFile =
                EntryRuns.byFile(
                    runs.getValue(),
                    planned.index().targetsOf(runs.getKey().item()),
                    file -> planned.plan().targets().get(file).entries().size());
            for (Map.Entry<Integer, List<List<SliceCrc>>> file : byFile.entrySet()) {
              finish(planned, file.getKey(), file.getValue());
            }
            for (int file : byFile.keySet()) {
              out.output(new Keyed<>(reshard, new Outcome.Finished(file)));
            }
          });
    }

    private static void finish(PlannedReshard planned, int number, List<List<SliceCrc>> runs)
        throws IOException {
      ReshardPlan plan = planned.plan();
      SourceStore source = planned.reshard().source();
      TargetStore target = planned.reshard().target();
      TargetFile file = plan.targets().get(number);
      List<Integer> crcs = crcs(file, runs);
      try (PositionalFile open = target.open(file.path())) {
        for (ByteSegment segment : file.recipe().skeleton(plan, source, number, crcs)) {
          open.write(segment.offset(), ByteBuffer.wrap(segment.bytes()));
        }
        open.complete();
      }
      target.finish(file.path(), file.bytes(), file.recipe().isExecutable(plan));
    }

    /** The CRC-32 of each entry of {@code file}. */
    private static List<Integer> crcs(TargetFile file, List<List<SliceCrc>> runs) {
      List<Integer> crcs = new ArrayList<>();
      for (int e = 0; e < runs.size(); e++) {
        TargetFile.Entry entry = file.entries().get(e);
        String where = "%s, storage '%s'".formatted(file.path(), entry.key());
        crcs.add(EntryRuns.crc32(where, entry.offset(), entry.bytes(), runs.get(e)));
      }
      return crcs;
    }
  }
}
