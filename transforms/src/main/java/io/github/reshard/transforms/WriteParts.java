package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCopier;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.plan.TensorRun;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.storage.PositionalFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.metrics.Counter;
import org.apache.beam.sdk.metrics.Metrics;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionTuple;
import org.apache.beam.sdk.values.TupleTag;
import org.apache.beam.sdk.values.TupleTagList;

/**
 * Moves the bytes: one part of a target file at a time, each slice read once, checksummed, checked
 * and written once. The checksums come out by source entry ({@link #READ}), by target entry ({@link
 * #WRITTEN}) and by full tensor ({@link #TENSORS}).
 */
public final class WriteParts
    extends PTransform<PCollection<KV<Keyed<PartId>, SliceCopy>>, PCollectionTuple> {
  private static final long serialVersionUID = 1L;

  /** Checksums of what was read, by source file. */
  static final TupleTag<KV<Keyed<Integer>, EntryCrc>> READ = new TupleTag<>() {};

  /** Checksums of what was written, by target file. */
  static final TupleTag<KV<Keyed<Integer>, EntryCrc>> WRITTEN = new TupleTag<>() {};

  /**
   * Checksums of what was moved, by {@link ParameterKeys}; offsets count from the full tensor's
   * beginning.
   */
  static final TupleTag<KV<Keyed<Integer>, TensorCrc>> TENSORS = new TupleTag<>() {};

  private final Reshards reshards;

  /**
   * @param reshards what the slices are of
   */
  public WriteParts(Reshards reshards) {
    this.reshards = reshards;
  }

  @Override
  public PCollectionTuple expand(PCollection<KV<Keyed<PartId>, SliceCopy>> slices) {
    PCollectionTuple crcs =
        slices
            .apply("ByPart", new Gather<>(reshards, new AllOfPart()))
            .apply(
                "WritePart",
                ParDo.of(new WritePart(reshards))
                    .withOutputTags(READ, TupleTagList.of(WRITTEN).and(TENSORS)));
    crcs.get(READ).setCoder(KvCoder.of(Keyed.coder(VarIntCoder.of()), Coders.ENTRY_CRC));
    crcs.get(WRITTEN).setCoder(KvCoder.of(Keyed.coder(VarIntCoder.of()), Coders.ENTRY_CRC));
    crcs.get(TENSORS).setCoder(KvCoder.of(Keyed.coder(VarIntCoder.of()), Coders.TENSOR_CRC));
    return crcs;
  }

  /**
   * Whole when every byte of payload that the part has is there: no two slices write the same. What
   * is only read need not wait for anything. That needs parts that end between two elements.
   */
  private static final class AllOfPart implements Gather.Measure<PartId, SliceCopy> {
    private static final long serialVersionUID = 1L;

    @Override
    public long expected(PlannedReshard planned, PartId part) {
      if (part.source()) {
        return Gather.ALONE;
      }
      long from = part.part() * planned.plan().partBytes();
      long to = from + planned.plan().partBytes();
      long bytes = 0;
      for (TargetFile.Entry entry : planned.plan().targets().get(part.file()).entries()) {
        bytes +=
            Math.max(
                0, Math.min(to, entry.offset() + entry.bytes()) - Math.max(from, entry.offset()));
      }
      return bytes;
    }

    @Override
    public long count(SliceCopy slice) {
      return slice.bytes();
    }
  }

  static final class WritePart
      extends DoFn<KV<Keyed<PartId>, Iterable<SliceCopy>>, KV<Keyed<Integer>, EntryCrc>> {
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

    private final PlannedReshard.Finder finder;
    private final Counter bytesRead = Metrics.counter(Counters.NAMESPACE, Counters.BYTES_READ);
    private final Counter bytesWritten =
        Metrics.counter(Counters.NAMESPACE, Counters.BYTES_WRITTEN);
    private transient SliceCopier copier;
    private transient SliceCopier trusting;
    private transient Map<TensorId, Long> mismatches;
    private transient OpenFiles openFiles;

    WritePart(Reshards reshards) {
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @Setup
    public void setUp() {
      mismatches = new HashMap<>();
      copier = new SliceCopier();
      trusting =
          new SliceCopier(
              (slice, element, reason) ->
                  mismatches.merge(tensorOf(slice.tensor()), element, Math::min));
      openFiles = new OpenFiles();
    }

    @ProcessElement
    public void process(
        @Element KV<Keyed<PartId>, Iterable<SliceCopy>> element, MultiOutputReceiver out)
        throws IOException {
      List<SliceCopy> slices = new ArrayList<>();
      element.getValue().forEach(slices::add);
      PartId part = element.getKey().item();
      finder.run(
          element.getKey().reshard(),
          planned -> {
            if (part.source()) {
              emit(planned, copy(planned, slices, null), out);
              return;
            }
            String path = planned.plan().targets().get(part.file()).path();
            Sums sums;
            try (PositionalFile sink = planned.reshard().target().open(path)) {
              sums = copy(planned, slices, sink);
              sink.complete();
            }
            emit(planned, sums, out);
          });
    }

    /** What came of a part. */
    private static final class Sums {
      private final Runs<EntryId> read = new Runs<>();
      private final Runs<EntryId> written = new Runs<>();
      private final Runs<TensorId> tensors = new Runs<>();
      private long bytesRead;
      private long bytesWritten;
    }

    private Sums copy(PlannedReshard planned, List<SliceCopy> slices, PositionalFile sink)
        throws IOException {
      boolean ascending = sink != null && planned.reshard().target().ascending();
      slices.sort(ascending ? BY_TARGET : BY_SOURCE);
      openFiles.expect(planned, slices);
      mismatches.clear();
      Sums sums = new Sums();
      (planned.reshard().config().trustMasters() ? trusting : copier)
          .copy(
              slices,
              file -> openFiles.open(planned, file),
              sink,
              (slice, crcs) -> {
                if (crcs.source() != null) {
                  sums.read.add(entry(slice.source()), crcs.source());
                }
                if (crcs.target() != null) {
                  sums.written.add(entry(slice.target()), crcs.target());
                  sums.bytesWritten += slice.bytes();
                }
                if (slice.source() != null) {
                  sums.bytesRead += slice.sourceBytes();
                }
                if (crcs.tensor() != null) {
                  sums.tensors.add(tensorOf(slice.tensor()), crcs.tensor());
                }
              });
      return sums;
    }

    private void emit(PlannedReshard planned, Sums sums, MultiOutputReceiver out) {
      String reshard = planned.reshard().key();
      bytesRead.inc(sums.bytesRead);
      Counters.inc(planned.reshard(), Counters.BYTES_READ, sums.bytesRead);
      bytesWritten.inc(sums.bytesWritten);
      emit(reshard, sums.read, out.get(READ));
      emit(reshard, sums.written, out.get(WRITTEN));
      PlanIndex index = planned.index();
      OutputReceiver<KV<Keyed<Integer>, TensorCrc>> digests = out.get(TENSORS);
      sums.tensors.emit(
          (id, crc) -> {
            int parameter = index.find(id.parameter()).ordinal();
            long mismatch = mismatches.getOrDefault(id, TensorCrc.NONE);
            digests.output(
                KV.of(
                    new Keyed<>(reshard, index.keys().keyOf(parameter)),
                    new TensorCrc(parameter, id.state(), crc, mismatch)));
          });
    }

    private static void emit(
        String reshard, Runs<EntryId> runs, OutputReceiver<KV<Keyed<Integer>, EntryCrc>> out) {
      runs.emit(
          (id, crc) ->
              out.output(KV.of(new Keyed<>(reshard, id.file()), new EntryCrc(id.entry(), crc))));
    }

    private static EntryId entry(Address address) {
      return new EntryId(address.file(), address.entry());
    }

    private static TensorId tensorOf(TensorRun run) {
      return new TensorId(run.parameter(), run.state());
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
}
