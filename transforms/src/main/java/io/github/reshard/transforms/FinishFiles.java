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
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.transforms.Create;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.Flatten;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionList;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * Writes what surrounds the payloads of a target file (pickle, zip headers and directory, with the
 * CRCs of what was written) and makes the file durable.
 */
final class FinishFiles
    extends PTransform<PCollection<KV<Integer, EntryCrc>>, PCollection<Outcome>> {
  private static final long serialVersionUID = 1L;

  private final PCollectionView<ReshardPlan> plan;
  private final SourceStore source;
  private final TargetStore target;
  private final int files;

  /**
   * @param files the number of target files
   */
  FinishFiles(
      PCollectionView<ReshardPlan> plan, SourceStore source, TargetStore target, int files) {
    this.plan = plan;
    this.source = source;
    this.target = target;
    this.files = files;
  }

  @Override
  public PCollection<Outcome> expand(PCollection<KV<Integer, EntryCrc>> written) {
    List<KV<Integer, EntryCrc>> every = new ArrayList<>();
    for (int f = 0; f < files; f++) {
      // So that a file without payload is finished too.
      every.add(KV.of(f, new EntryCrc(NOTHING_WRITTEN, new SliceCrc(0, 0, 0))));
    }
    PCollection<KV<Integer, EntryCrc>> all =
        written
            .getPipeline()
            .apply(
                "EveryFile",
                Create.of(every).withCoder(KvCoder.of(VarIntCoder.of(), Coders.ENTRY_CRC)));
    return PCollectionList.of(written)
        .and(all)
        .apply(Flatten.pCollections())
        .apply("ByTargetFile", GroupByKey.create())
        .apply("FinishFile", ParDo.of(new FinishFile(plan, source, target)).withSideInputs(plan))
        .setCoder(Coders.OUTCOME);
  }

  private static final int NOTHING_WRITTEN = -1;

  private static final class FinishFile extends DoFn<KV<Integer, Iterable<EntryCrc>>, Outcome> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;
    private final SourceStore source;
    private final TargetStore target;

    FinishFile(PCollectionView<ReshardPlan> planView, SourceStore source, TargetStore target) {
      this.planView = planView;
      this.source = source;
      this.target = target;
    }

    @ProcessElement
    public void process(
        @Element KV<Integer, Iterable<EntryCrc>> runs,
        OutputReceiver<Outcome> out,
        ProcessContext context)
        throws IOException {
      ReshardPlan plan = context.sideInput(planView);
      TargetFile file = plan.targets().get(runs.getKey());
      List<List<SliceCrc>> byEntry = new ArrayList<>();
      file.entries().forEach(entry -> byEntry.add(new ArrayList<>()));
      for (EntryCrc run : runs.getValue()) {
        if (run.entry() != NOTHING_WRITTEN) {
          byEntry.get(run.entry()).add(run.crc());
        }
      }
      List<Integer> crcs = new ArrayList<>();
      for (int e = 0; e < byEntry.size(); e++) {
        TargetFile.Entry entry = file.entries().get(e);
        SliceCrc.Sum sum = SliceCrc.sum(entry.offset(), entry.bytes(), byEntry.get(e));
        if (sum instanceof SliceCrc.Sum.Broken broken) {
          throw new IllegalStateException(
              "%s, storage '%s': expected the next slice at byte %d, found it at %d; the plan is wrong"
                  .formatted(file.path(), entry.key(), broken.expected(), broken.found()));
        }
        crcs.add(((SliceCrc.Sum.Whole) sum).crc32());
      }
      try (PositionalFile open = target.open(file.path())) {
        for (ByteSegment segment : file.recipe().skeleton(plan, source, runs.getKey(), crcs)) {
          open.write(segment.offset(), ByteBuffer.wrap(segment.bytes()));
        }
        open.complete();
      }
      target.finish(file.path(), file.bytes(), file.recipe().isExecutable(plan));
      out.output(new Outcome.Finished(runs.getKey()));
    }
  }
}
