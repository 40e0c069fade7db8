package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCopier;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.ReshardPlan;
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
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.BiConsumer;
import java.util.function.IntUnaryOperator;
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

  /** Checksums of what was read, by {@link PlanIndex#sourceKey}. */
  static final TupleTag<KV<Keyed<Integer>, Packed<EntryCrc>>> READ = new TupleTag<>() {};

  /** Checksums of what was written, by {@link PlanIndex#targetKey}. */
  static final TupleTag<KV<Keyed<Integer>, Packed<EntryCrc>>> WRITTEN = new TupleTag<>() {};

  /**
   * Checksums of what was moved, by {@link ParameterKeys}; offsets count from the full tensor's
   * beginning.
   */
  static final TupleTag<KV<Keyed<Integer>, Packed<TensorCrc>>> TENSORS = new TupleTag<>() {};

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
            .apply("Pack", ParDo.of(new Pack(reshards)))
            .setCoder(KvCoder.of(Keyed.coder(Coders.PART_ID), Packed.coder()))
            .apply("ByPart", new Gather<>(reshards, new AllOfParts()))
            .apply(
                "WritePart",
                ParDo.of(new WritePart(reshards))
                    .withOutputTags(READ, TupleTagList.of(WRITTEN).and(TENSORS)));
    crcs.get(READ).setCoder(KvCoder.of(Keyed.coder(VarIntCoder.of()), Packed.coder()));
    crcs.get(WRITTEN).setCoder(KvCoder.of(Keyed.coder(VarIntCoder.of()), Packed.coder()));
    crcs.get(TENSORS).setCoder(KvCoder.of(Keyed.coder(VarIntCoder.of()), Packed.coder()));
    return crcs;
  }

  /** Packs slices by the key of their part. */
  private static final class Pack
      extends PackingFn<KV<Keyed<PartId>, SliceCopy>, Keyed<PartId>, SliceCopy> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    Pack(Reshards reshards) {
      super(Coders.SLICE_COPY);
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @Override
    void pack(KV<Keyed<PartId>, SliceCopy> slice, Into<Keyed<PartId>, SliceCopy> into)
        throws IOException {
      String reshard = slice.getKey().reshard();
      PartId part = slice.getKey().item();
      finder.run(
          reshard,
          planned ->
              into.add(
                  new Keyed<>(reshard, planned.index().keyOf(part)),
                  slice.getValue(),
                  slice.getValue().bytes()));
    }
  }

  /**
   * Whole when every byte of payload that the part has is there, or the files that share its key:
   * no two slices write the same. What is only read need not wait for anything. That needs parts
   * that end between two elements.
   */
  private static final class AllOfParts implements Gather.Measure<PartId, Packed<SliceCopy>> {
    private static final long serialVersionUID = 1L;

    @Override
    public long expected(PlannedReshard planned, PartId part) {
      if (part.source()) {
        return Gather.ALONE;
      }
      long bytes = 0;
      for (int file :
          part.part() > 0 ? List.of(part.file()) : planned.index().targetsOf(part.file())) {
        bytes += payload(planned.plan(), file, part.part());
      }
      return bytes;
    }

    private static long payload(ReshardPlan plan, int file, int part) {
      long from = part * plan.partBytes();
      long to = from + plan.partBytes();
      long bytes = 0;
      for (TargetFile.Entry entry : plan.targets().get(file).entries()) {
        bytes +=
            Math.max(
                0, Math.min(to, entry.offset() + entry.bytes()) - Math.max(from, entry.offset()));
      }
      return bytes;
    }

    @Override
    public long count(Packed<SliceCopy> slices) {
      return slices.counts();
    }
  }

  static final class WritePart
      extends DoFn<
          KV<Keyed<PartId>, Iterable<Packed<SliceCopy>>>, KV<Keyed<Integer>, Packed<EntryCrc>>> {
    private static final long serialVersionUID = 1L;

    /** Under which slices are that go to no file. */
    private static final int NO_FILE = -1;

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
        @Element KV<Keyed<PartId>, Iterable<Packed<SliceCopy>>> element, MultiOutputReceiver out)
        throws IOException {
      boolean onlyRead = element.getKey().item().source();
      SortedMap<Integer, List<SliceCopy>> byFile = new TreeMap<>();
      for (Packed<SliceCopy> packed : element.getValue()) {
        packed.forEach(
            Coders.SLICE_COPY,
            slice ->
                byFile
                    .computeIfAbsent(
                        onlyRead ? NO_FILE : slice.target().file(), f -> new ArrayList<>())
                    .add(slice));
      }
      finder.run(
          element.getKey().reshard(),
          planned -> {
            mismatches.clear();
            Sums sums = new Sums();
            for (Map.Entry<Integer, List<SliceCopy>> of : byFile.entrySet()) {
              if (onlyRead) {
                copy(planned, of.getValue(), null, sums);
                continue;
              }
              String path = planned.plan().targets().get(of.getKey()).path();
              try (PositionalFile sink = planned.reshard().target().open(path)) {
                copy(planned, of.getValue(), sink, sums);
                sink.complete();
              }
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

    private void copy(
        PlannedReshard planned, List<SliceCopy> slices, PositionalFile sink, Sums sums)
        throws IOException {
      boolean ascending = sink != null && planned.reshard().target().ascending();
      slices.sort(ascending ? BY_TARGET : BY_SOURCE);
      openFiles.expect(planned, slices);
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
    }

    private void emit(PlannedReshard planned, Sums sums, MultiOutputReceiver out) {
      String reshard = planned.reshard().key();
      bytesRead.inc(sums.bytesRead);
      Counters.inc(planned.reshard(), Counters.BYTES_READ, sums.bytesRead);
      bytesWritten.inc(sums.bytesWritten);
      PlanIndex index = planned.index();
      emit(reshard, sums.read, index::sourceKey, out.get(READ));
      emit(reshard, sums.written, index::targetKey, out.get(WRITTEN));
      Packed.Packing<Integer, TensorCrc> packing = new Packed.Packing<>(Coders.TENSOR_CRC);
      BiConsumer<Integer, Packed<TensorCrc>> digests = emitted(reshard, out.get(TENSORS));
      sums.tensors.emit(
          (id, crc) -> {
            int parameter = index.find(id.parameter()).ordinal();
            long mismatch = mismatches.getOrDefault(id, TensorCrc.NONE);
            packing.add(
                index.keys().keyOf(parameter),
                new TensorCrc(parameter, id.state(), crc, mismatch),
                crc.bytes(),
                digests);
          });
      packing.finish(digests);
    }

    private static void emit(
        String reshard,
        Runs<EntryId> runs,
        IntUnaryOperator keyOfFile,
        OutputReceiver<KV<Keyed<Integer>, Packed<EntryCrc>>> out) {
      Packed.Packing<Integer, EntryCrc> packing = new Packed.Packing<>(Coders.ENTRY_CRC);
      BiConsumer<Integer, Packed<EntryCrc>> emitted = emitted(reshard, out);
      runs.emit(
          (id, crc) ->
              packing.add(
                  keyOfFile.applyAsInt(id.file()),
                  new EntryCrc(id.file(), id.entry(), crc),
                  crc.bytes(),
                  emitted));
      packing.finish(emitted);
    }

    private static <T> BiConsumer<Integer, Packed<T>> emitted(
        String reshard, OutputReceiver<KV<Keyed<Integer>, Packed<T>>> out) {
      return (key, packed) -> out.output(KV.of(new Keyed<>(reshard, key), packed));
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
