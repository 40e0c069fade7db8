package io.github.reshard.transforms;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.ParameterTensor;
import io.github.reshard.checkpoint.plan.ParameterTensor.Piece;
import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.Crc32Combine;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.ElementText;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.zip.CRC32;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.SerializableCoder;
import org.apache.beam.sdk.metrics.Counter;
import org.apache.beam.sdk.metrics.Metrics;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.Reshuffle;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PBegin;
import org.apache.beam.sdk.values.PCollection;

/**
 * Compares the full tensors of two checkpoints, however many ranks hold them: the slices of each
 * are assembled as for a reshard, tensors of the same parameter meet, and runs of bounded size are
 * read from both. Every byte is read once.
 */
public final class CompareTensors extends PTransform<PBegin, PCollection<TensorVerdict>> {
  private static final long serialVersionUID = 1L;
  private static final int A = 0;
  private static final int B = 1;

  private final Reshards reshards;
  private final List<String> keys;
  private final List<ReshardPlan> plans;

  /**
   * @param reshards two of which only the sources count
   * @param keyA the key of the one
   * @param planA its plan
   * @param keyB the key of the other
   * @param planB its plan
   */
  public CompareTensors(
      Reshards reshards, String keyA, ReshardPlan planA, String keyB, ReshardPlan planB) {
    this.reshards = reshards;
    this.keys = List.of(keyA, keyB);
    this.plans = List.of(planA, planB);
  }

  @Override
  public PCollection<TensorVerdict> expand(PBegin begin) {
    List<Keyed<PlanItem>> items = new ArrayList<>();
    for (int side = 0; side < keys.size(); side++) {
      String key = keys.get(side);
      PlanItem.allOf(plans.get(side)).forEach(item -> items.add(new Keyed<>(key, item)));
    }
    PCollection<KV<TensorId, Compared>> compared =
        begin
            .apply("Shards", PlanItems.of(items))
            .apply("ReadShards", new ReadShards(reshards))
            .apply("AssembleParameters", new AssembleParameters(reshards))
            .apply("OfSide", ParDo.of(new OfSide(reshards, keys)))
            .setCoder(KvCoder.of(Coders.PARAM_ID, SerializableCoder.of(Side.class)))
            .apply("ByParameter", GroupByKey.create())
            .apply("Pair", ParDo.of(new Pair(plans.get(A).partBytes())))
            .setCoder(SerializableCoder.of(Run.class))
            .apply("Spread", Reshuffle.viaRandomKey())
            .apply("Compare", ParDo.of(new Compare(reshards, keys)))
            .setCoder(KvCoder.of(Coders.TENSOR_ID, SerializableCoder.of(Compared.class)));
    return compared
        .apply("ByTensor", GroupByKey.create())
        .apply("Verdict", ParDo.of(new Verdict()))
        .setCoder(SerializableCoder.of(TensorVerdict.class));
  }

  /** A full tensor of one of the two checkpoints. */
  record Side(int side, ParameterTensor tensor) implements java.io.Serializable {}

  /**
   * A run of elements that is compared in one go.
   *
   * @param problem what makes comparing impossible, or empty
   */
  record Run(
      TensorId tensor,
      String problem,
      DType dtype,
      long start,
      long elements,
      List<Piece> a,
      List<Piece> b)
      implements java.io.Serializable {}

  /** What came of a run. */
  record Compared(
      String problem,
      long offset,
      long bytes,
      int crcA,
      int crcB,
      long element,
      String valueA,
      String valueB)
      implements java.io.Serializable {}

  private static final class OfSide extends DoFn<Keyed<ParameterTensor>, KV<ParamId, Side>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;
    private final List<String> keys;

    OfSide(Reshards reshards, List<String> keys) {
      this.finder = new PlannedReshard.Finder(reshards);
      this.keys = keys;
    }

    @ProcessElement
    public void process(
        @Element Keyed<ParameterTensor> element, OutputReceiver<KV<ParamId, Side>> out)
        throws IOException {
      int side = keys.indexOf(element.reshard());
      ParameterTensor tensor = element.item();
      PlannedReshard planned = finder.find(element.reshard());
      PlanIndex.Place place = planned.index().find(tensor.id());
      PartitionedModel model = planned.plan().models().get(place.model());
      Map<String, List<Piece>> states = new LinkedHashMap<>(tensor.states());
      ModuleWeight weight = model.weights().get(place.parameter());
      if (weight != null && !states.containsKey(States.MODULE)) {
        states.put(
            States.MODULE,
            List.of(
                new Piece(0, tensor.elements(), RankSlice.WHOLE, weight.dtype(), weight.source())));
      }
      ParamId id = tensor.id();
      ParamId inBoth = new ParamId("", id.mpRank(), id.expertRank(), id.name());
      out.output(
          KV.of(
              inBoth,
              new Side(
                  side, new ParameterTensor(inBoth, tensor.elements(), states, tensor.copies()))));
    }
  }

  private static final class Pair extends DoFn<KV<ParamId, Iterable<Side>>, Run> {
    private static final long serialVersionUID = 1L;
    private final long runBytes;

    Pair(long runBytes) {
      this.runBytes = runBytes;
    }

    @ProcessElement
    public void process(@Element KV<ParamId, Iterable<Side>> sides, OutputReceiver<Run> out) {
      ParameterTensor a = null;
      ParameterTensor b = null;
      for (Side side : sides.getValue()) {
        if (side.side() == A) {
          a = side.tensor();
        } else {
          b = side.tensor();
        }
      }
      Set<String> states = new LinkedHashSet<>();
      if (a != null) {
        states.addAll(a.states().keySet());
      }
      if (b != null) {
        states.addAll(b.states().keySet());
      }
      for (String state : states) {
        TensorId id = new TensorId(sides.getKey(), state);
        List<Piece> ofA = a == null ? null : a.states().get(state);
        List<Piece> ofB = b == null ? null : b.states().get(state);
        boolean oneKeepsNoWeights =
            state.equals(States.MODULE) && a != null && b != null && (ofA == null || ofB == null);
        if (oneKeepsNoWeights) {
          continue;
        }
        String problem = problem(a, ofA, b, ofB);
        if (!problem.isEmpty() || ofA.isEmpty()) {
          out.output(new Run(id, problem, DType.UINT8, 0, 0, List.of(), List.of()));
          continue;
        }
        compare(id, a.elements(), ofA, ofB, out);
        // Where ranks share a state, every copy of one is compared with the first of the other.
        for (Piece copy : a.copies().getOrDefault(state, List.of())) {
          compare(copyOf(id, copy, "--input"), a.elements(), List.of(copy), ofB, out);
        }
        for (Piece copy : b.copies().getOrDefault(state, List.of())) {
          compare(copyOf(id, copy, "--output"), a.elements(), ofA, List.of(copy), out);
        }
      }
    }

    private static TensorId copyOf(TensorId id, Piece copy, String side) {
      return new TensorId(
          id.parameter(), "%s on rank %d of %s".formatted(id.state(), copy.rank(), side));
    }

    private void compare(
        TensorId id, long all, List<Piece> ofA, List<Piece> ofB, OutputReceiver<Run> out) {
      DType dtype = ofA.get(0).dtype();
      long most = Math.max(1, runBytes / dtype.bytes());
      for (long start = 0; start < all; start += most) {
        long elements = Math.min(most, all - start);
        out.output(
            new Run(
                id,
                "",
                dtype,
                start,
                elements,
                within(ofA, start, elements),
                within(ofB, start, elements)));
      }
    }

    private static String problem(
        ParameterTensor a, List<Piece> ofA, ParameterTensor b, List<Piece> ofB) {
      if (ofA == null || ofB == null) {
        return "only " + (ofA == null ? "--output" : "--input") + " has it";
      }
      if (a.elements() != b.elements()) {
        return "%d elements in --input, %d in --output".formatted(a.elements(), b.elements());
      }
      if (!ofA.isEmpty() && !ofB.isEmpty() && ofA.get(0).dtype() != ofB.get(0).dtype()) {
        return "%s in --input, %s in --output"
            .formatted(ofA.get(0).dtype().torchName(), ofB.get(0).dtype().torchName());
      }
      return "";
    }

    private static List<Piece> within(List<Piece> pieces, long start, long elements) {
      List<Piece> clipped = new ArrayList<>();
      for (Piece piece : pieces) {
        long from = Math.max(start, piece.start());
        long to = Math.min(start + elements, piece.start() + piece.elements());
        if (from < to) {
          clipped.add(
              new Piece(
                  from,
                  to - from,
                  piece.rank(),
                  piece.dtype(),
                  piece.address().plus((from - piece.start()) * piece.dtype().bytes())));
        }
      }
      return clipped;
    }
  }

  static final class Compare extends DoFn<Run, KV<TensorId, Compared>> {
    private static final long serialVersionUID = 1L;
    private static final int BUFFER_BYTES = 1 << 20;
    private final PlannedReshard.Finder finderA;
    private final PlannedReshard.Finder finderB;
    private final List<String> keys;
    private final Counter bytesRead = Metrics.counter(Counters.NAMESPACE, Counters.BYTES_READ);
    private transient OpenFiles openA;
    private transient OpenFiles openB;
    private transient ByteBuffer bufferA;
    private transient ByteBuffer bufferB;

    Compare(Reshards reshards, List<String> keys) {
      this.finderA = new PlannedReshard.Finder(reshards);
      this.finderB = new PlannedReshard.Finder(reshards);
      this.keys = keys;
    }

    @Setup
    public void setUp() {
      openA = new OpenFiles();
      openB = new OpenFiles();
      bufferA = ByteBuffer.allocateDirect(BUFFER_BYTES);
      bufferB = ByteBuffer.allocateDirect(BUFFER_BYTES);
    }

    @ProcessElement
    public void process(@Element Run run, OutputReceiver<KV<TensorId, Compared>> out)
        throws IOException {
      PlannedReshard plannedA = finderA.find(keys.get(A));
      PlannedReshard plannedB = finderB.find(keys.get(B));
      CRC32 crcA = new CRC32();
      CRC32 crcB = new CRC32();
      int width = run.dtype().bytes();
      long bytes = run.elements() * width;
      long element = -1;
      String valueA = "";
      String valueB = "";
      for (long done = 0; done < bytes; ) {
        int length = (int) Math.min((long) BUFFER_BYTES / width * width, bytes - done);
        long from = run.start() + done / width;
        fill(bufferA, length, from, width, run.a(), plannedA, openA);
        fill(bufferB, length, from, width, run.b(), plannedB, openB);
        crcA.update(bufferA.duplicate());
        crcB.update(bufferB.duplicate());
        int mismatch = element < 0 ? bufferA.mismatch(bufferB) : -1;
        if (mismatch >= 0) {
          int at = mismatch / width * width;
          element = from + mismatch / width;
          valueA = ElementText.of(run.dtype(), bufferA, at);
          valueB = ElementText.of(run.dtype(), bufferB, at);
        }
        bytesRead.inc(2L * length);
        done += length;
      }
      out.output(
          KV.of(
              run.tensor(),
              new Compared(
                  run.problem(),
                  run.start() * width,
                  bytes,
                  (int) crcA.getValue(),
                  (int) crcB.getValue(),
                  element,
                  valueA,
                  valueB)));
    }

    /** Reads the elements from {@code start} on; afterwards the buffer holds them. */
    private static void fill(
        ByteBuffer buffer,
        int bytes,
        long start,
        int width,
        List<Piece> pieces,
        PlannedReshard planned,
        OpenFiles open)
        throws IOException {
      buffer.clear();
      long end = start + bytes / width;
      for (Piece piece : pieces) {
        long from = Math.max(start, piece.start());
        long to = Math.min(end, piece.start() + piece.elements());
        if (from < to) {
          Address address = piece.address().plus((from - piece.start()) * width);
          RangedFile file = open.open(planned, address.file());
          buffer.limit(buffer.position() + Math.toIntExact((to - from) * width));
          try {
            file.readFully(address.offset(), buffer);
          } catch (EOFException e) {
            throw new RefusedException(
                file.path(), "the file became shorter while it was being read.", e);
          }
        }
      }
      buffer.flip();
    }

    @FinishBundle
    public void finishBundle() throws IOException {
      openA.close();
      openB.close();
    }

    @Teardown
    public void tearDown() throws IOException {
      if (openA != null) {
        openA.close();
        openB.close();
      }
    }
  }

  private static final class Verdict extends DoFn<KV<TensorId, Iterable<Compared>>, TensorVerdict> {
    private static final long serialVersionUID = 1L;

    @ProcessElement
    public void process(
        @Element KV<TensorId, Iterable<Compared>> runs, OutputReceiver<TensorVerdict> out) {
      List<Compared> sorted = new ArrayList<>();
      runs.getValue().forEach(sorted::add);
      sorted.sort(Comparator.comparingLong(Compared::offset));
      int crcA = 0;
      int crcB = 0;
      long bytes = 0;
      Compared first = null;
      for (Compared run : sorted) {
        crcA = Crc32Combine.combine(crcA, run.crcA(), run.bytes());
        crcB = Crc32Combine.combine(crcB, run.crcB(), run.bytes());
        bytes += run.bytes();
        if (first == null && run.element() >= 0) {
          first = run;
        }
      }
      TensorId id = runs.getKey();
      out.output(
          new TensorVerdict(
              id.parameter(),
              id.state(),
              sorted.get(0).problem(),
              bytes,
              crcA,
              crcB,
              first == null ? -1 : first.element(),
              first == null ? "" : first.valueA(),
              first == null ? "" : first.valueB()));
    }
  }
}
