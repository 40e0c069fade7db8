package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCopier;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.TensorRun;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.VarIntCoder;
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
 * and written once. The checksums come out by source entry ({@link #READ}), by target entry ({@link
 * #WRITTEN}) and by full tensor ({@link #TENSORS}).
 */
public final class WriteParts
    extends PTransform<PCollection<KV<PartId, SliceCopy>>, PCollectionTuple> {
  private static final long serialVersionUID = 1L;

  /** Checksums of what was read, by source file. */
  static final TupleTag<KV<Integer, EntryCrc>> READ = new TupleTag<>() {};

  /** Checksums of what was written, by target file. */
  static final TupleTag<KV<Integer, EntryCrc>> WRITTEN = new TupleTag<>() {};

  /**
   * Checksums of what was moved, by {@link ParameterKeys}; offsets count from the full tensor's
   * beginning.
   */
  static final TupleTag<KV<Integer, TensorCrc>> TENSORS = new TupleTag<>() {};

  /** Master weights that do not give the module's weights, if they are trusted all the same. */
  static final TupleTag<Outcome> DISAGREEMENTS = new TupleTag<>() {};

  private final PCollectionView<ReshardPlan> plan;
  private final SourceStore source;
  private final TargetStore target;
  private final boolean trustMasters;

  /**
   * @param plan the plan that the slices are of
   * @param source where they are read from
   * @param target where they are written to
   * @param trustMasters whether to go on when master weights do not give the module's weights
   */
  public WriteParts(
      PCollectionView<ReshardPlan> plan,
      SourceStore source,
      TargetStore target,
      boolean trustMasters) {
    this.plan = plan;
    this.source = source;
    this.target = target;
    this.trustMasters = trustMasters;
  }

  @Override
  public PCollectionTuple expand(PCollection<KV<PartId, SliceCopy>> slices) {
    PCollectionTuple crcs =
        slices
            .apply("ByPart", GroupByKey.create())
            .apply(
                "WritePart",
                ParDo.of(new WritePart(plan, source, target, trustMasters))
                    .withSideInputs(plan)
                    .withOutputTags(
                        READ, TupleTagList.of(WRITTEN).and(TENSORS).and(DISAGREEMENTS)));
    crcs.get(READ).setCoder(KvCoder.of(VarIntCoder.of(), Coders.ENTRY_CRC));
    crcs.get(WRITTEN).setCoder(KvCoder.of(VarIntCoder.of(), Coders.ENTRY_CRC));
    crcs.get(TENSORS).setCoder(KvCoder.of(VarIntCoder.of(), Coders.TENSOR_CRC));
    crcs.get(DISAGREEMENTS).setCoder(Coders.OUTCOME);
    return crcs;
  }

  static final class WritePart
      extends DoFn<KV<PartId, Iterable<SliceCopy>>, KV<Integer, EntryCrc>> {
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
    private final boolean trustMasters;
    private final Counter bytesRead = Metrics.counter(Counters.NAMESPACE, Counters.BYTES_READ);
    private final Counter bytesWritten =
        Metrics.counter(Counters.NAMESPACE, Counters.BYTES_WRITTEN);
    private transient SliceCopier copier;
    private transient List<Outcome> disagreements;
    private transient OpenFiles openFiles;
    private transient PlanIndex index;

    WritePart(
        PCollectionView<ReshardPlan> planView,
        SourceStore source,
        TargetStore target,
        boolean trustMasters) {
      this.planView = planView;
      this.source = source;
      this.target = target;
      this.trustMasters = trustMasters;
    }

    @Setup
    public void setUp() {
      disagreements = new ArrayList<>();
      copier =
          trustMasters
              ? new SliceCopier(
                  (slice, element, reason) ->
                      disagreements.add(
                          new Outcome.Disagreement(slice.tensor().parameter(), element)))
              : new SliceCopier();
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
      Runs<EntryId> read = new Runs<>();
      Runs<EntryId> written = new Runs<>();
      Runs<TensorId> tensors = new Runs<>();
      disagreements.clear();
      copier.copy(
          slices,
          file -> openFiles.open(plan, file),
          sink,
          (slice, sums) -> {
            if (sums.source() != null) {
              read.add(entry(slice.source()), sums.source());
            }
            if (sums.target() != null) {
              written.add(entry(slice.target()), sums.target());
              bytesWritten.inc(slice.bytes());
            }
            if (slice.source() != null) {
              bytesRead.inc(slice.sourceBytes());
            }
            if (sums.tensor() != null) {
              TensorRun tensor = slice.tensor();
              tensors.add(new TensorId(tensor.parameter(), tensor.state()), sums.tensor());
            }
          });
      emit(read, out.get(READ));
      emit(written, out.get(WRITTEN));
      index = PlanIndex.of(plan, index);
      OutputReceiver<KV<Integer, TensorCrc>> digests = out.get(TENSORS);
      tensors.emit(
          (id, crc) -> {
            int parameter = index.find(id.parameter()).ordinal();
            digests.output(
                KV.of(index.keys().keyOf(parameter), new TensorCrc(parameter, id.state(), crc)));
          });
      disagreements.forEach(out.get(DISAGREEMENTS)::output);
    }

    private static void emit(Runs<EntryId> runs, OutputReceiver<KV<Integer, EntryCrc>> out) {
      runs.emit((id, crc) -> out.output(KV.of(id.file(), new EntryCrc(id.entry(), crc))));
    }

    private static EntryId entry(Address address) {
      return new EntryId(address.file(), address.entry());
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
