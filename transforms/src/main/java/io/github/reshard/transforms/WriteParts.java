package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCopier;
import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.plan.Address;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.checkpoint.torch.Crc32Combine;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.metrics.Counter;
import org.apache.beam.sdk.metrics.Metrics;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionTuple;
import org.apache.beam.sdk.values.PCollectionView;
import org.apache.beam.sdk.values.TupleTag;
import org.apache.beam.sdk.values.TupleTagList;

/**
 * Moves the bytes: one part of a target file at a time, each slice read once, checksummed, checked
 * and written once. The checksums come out twice, by source entry ({@link #READ}) and by target
 * entry ({@link #WRITTEN}).
 */
public final class WriteParts
    extends PTransform<PCollection<KV<PartId, SliceCopy>>, PCollectionTuple> {
  private static final long serialVersionUID = 1L;

  /** Checksums of what was read, by entry of a source file. */
  static final TupleTag<KV<EntryId, SliceCrc>> READ = new TupleTag<>() {};

  /** Checksums of what was written, by entry of a target file. */
  static final TupleTag<KV<EntryId, SliceCrc>> WRITTEN = new TupleTag<>() {};

  private final PCollectionView<ReshardPlan> plan;
  private final SourceStore source;
  private final TargetStore target;

  /**
   * @param plan the plan that the slices are of
   * @param source where they are read from
   * @param target where they are written to
   */
  public WriteParts(PCollectionView<ReshardPlan> plan, SourceStore source, TargetStore target) {
    this.plan = plan;
    this.source = source;
    this.target = target;
  }

  @Override
  public PCollectionTuple expand(PCollection<KV<PartId, SliceCopy>> slices) {
    PCollectionTuple crcs =
        slices
            .apply("ByPart", GroupByKey.create())
            .apply(
                "WritePart",
                ParDo.of(new WritePart(plan, source, target))
                    .withSideInputs(plan)
                    .withOutputTags(READ, TupleTagList.of(WRITTEN)));
    crcs.get(READ).setCoder(KvCoder.of(Coders.ENTRY_ID, Coders.SLICE_CRC));
    crcs.get(WRITTEN).setCoder(KvCoder.of(Coders.ENTRY_ID, Coders.SLICE_CRC));
    return crcs;
  }

  static final class WritePart
      extends DoFn<KV<PartId, Iterable<SliceCopy>>, KV<EntryId, SliceCrc>> {
    private static final long serialVersionUID = 1L;
    private static final Comparator<SliceCopy> BY_TARGET =
        Comparator.comparing(
            SliceCopy::target, Comparator.nullsFirst(Comparator.comparingLong(Address::offset)));
    private static final Comparator<SliceCopy> BY_SOURCE =
        Comparator.comparing(
                SliceCopy::source,
                Comparator.nullsFirst(
                    Comparator.comparingInt(Address::file).thenComparingLong(Address::offset)))
            .thenComparing(BY_TARGET);

    private final PCollectionView<ReshardPlan> planView;
    private final SourceStore source;
    private final TargetStore target;
    private final Counter bytesRead = Metrics.counter(Counters.NAMESPACE, Counters.BYTES_READ);
    private final Counter bytesWritten =
        Metrics.counter(Counters.NAMESPACE, Counters.BYTES_WRITTEN);
    private transient SliceCopier copier;
    private transient OpenFiles openFiles;

    WritePart(PCollectionView<ReshardPlan> planView, SourceStore source, TargetStore target) {
      this.planView = planView;
      this.source = source;
      this.target = target;
    }

    @Setup
    public void setUp() {
      copier = new SliceCopier();
      openFiles = new OpenFiles(source);
    }

    @ProcessElement
    public void process(
        @Element KV<PartId, Iterable<SliceCopy>> part,
        ProcessContext context,
        MultiOutputReceiver out)
        throws IOException {
      ReshardPlan plan = context.sideInput(planView);
      List<SliceCopy> slices = new ArrayList<>();
      part.getValue().forEach(slices::add);
      if (part.getKey().source()) {
        copy(plan, slices, null, out);
      } else {
        String path = plan.targets().get(part.getKey().file()).path();
        try (PositionalFile sink = target.open(path)) {
          copy(plan, slices, sink, out);
          sink.complete();
        }
      }
    }

    private void copy(
        ReshardPlan plan, List<SliceCopy> slices, PositionalFile sink, MultiOutputReceiver out)
        throws IOException {
      slices.sort(sink != null && target.ascending() ? BY_TARGET : BY_SOURCE);
      openFiles.expect(plan, slices);
      Runs read = new Runs();
      Runs written = new Runs();
      for (SliceCopy slice : slices) {
        int crc = copier.copy(slice, file -> openFiles.open(plan, file), sink);
        if (slice.proves()) {
          read.add(slice.source(), slice.bytes(), crc);
        }
        if (slice.target() != null) {
          written.add(slice.target(), slice.bytes(), crc);
          bytesWritten.inc(slice.bytes());
        }
        if (slice.source() != null) {
          bytesRead.inc(slice.bytes());
        }
      }
      read.emit(out.get(READ));
      written.emit(out.get(WRITTEN));
    }

    @FinishBundle
    public void finishBundle() throws IOException {
      openFiles.close();
    }

    @Teardown
    public void tearDown() throws IOException {
      if (openFiles != null) {
        openFiles.close();
      }
    }
  }

  /** Checksums of runs of bytes, put together where one run continues another. */
  private static final class Runs {
    private record Run(EntryId entry, SliceCrc crc) {}

    private final List<Run> runs = new ArrayList<>();

    void add(Address address, long bytes, int crc) {
      runs.add(
          new Run(
              new EntryId(address.file(), address.entry()),
              new SliceCrc(address.offset(), bytes, crc)));
    }

    void emit(DoFn.OutputReceiver<KV<EntryId, SliceCrc>> out) {
      runs.sort(
          Comparator.comparingInt((Run r) -> r.entry().file())
              .thenComparingInt(r -> r.entry().entry())
              .thenComparingLong(r -> r.crc().offset()));
      Run current = null;
      for (Run next : runs) {
        if (current != null
            && current.entry().equals(next.entry())
            && current.crc().offset() + current.crc().bytes() == next.crc().offset()) {
          SliceCrc a = current.crc();
          SliceCrc b = next.crc();
          current =
              new Run(
                  current.entry(),
                  new SliceCrc(
                      a.offset(),
                      a.bytes() + b.bytes(),
                      Crc32Combine.combine(a.crc32(), b.crc32(), b.bytes())));
        } else {
          if (current != null) {
            out.output(KV.of(current.entry(), current.crc()));
          }
          current = next;
        }
      }
      if (current != null) {
        out.output(KV.of(current.entry(), current.crc()));
      }
    }
  }
}
