package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.FullOrder;
import io.github.reshard.checkpoint.plan.ParameterTensor;
import io.github.reshard.checkpoint.plan.ParameterTensor.Piece;
import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.Crc32Combine;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.SerializableCoder;
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
  static final int A = 0;
  static final int B = 1;

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
            .apply("Pair", ParDo.of(new PairTensors(plans.get(A).partBytes())))
            .setCoder(SerializableCoder.of(RunPair.class))
            .apply("Spread", Reshuffle.viaRandomKey())
            .apply("Compare", ParDo.of(new CompareRun(reshards, keys)))
            .setCoder(KvCoder.of(Coders.TENSOR_ID, SerializableCoder.of(Compared.class)));
    return compared
        .apply("ByTensor", GroupByKey.create())
        .apply("Verdict", ParDo.of(new Verdict()))
        .setCoder(SerializableCoder.of(TensorVerdict.class));
  }

  /**
   * A full tensor of one of the two checkpoints.
   *
   * @param alike for each state the other copies of all of it that model-parallel ranks have
   */
  record Side(int side, ParameterTensor tensor, Map<String, List<List<Piece>>> alike)
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
      Map<String, List<List<Piece>>> alike = new LinkedHashMap<>();
      if (model.source().holders() > 1) {
        for (Map.Entry<String, List<Piece>> state : states.entrySet()) {
          List<List<Piece>> copies = FullOrder.of(model, place.parameter(), state.getValue());
          state.setValue(copies.isEmpty() ? List.of() : copies.get(0));
          if (copies.size() > 1) {
            alike.put(state.getKey(), new ArrayList<>(copies.subList(1, copies.size())));
          }
        }
      }
      ParamId id = tensor.id();
      ParamId inBoth = new ParamId("", id.mpRank(), id.name());
      out.output(
          KV.of(
              inBoth,
              new Side(
                  side,
                  new ParameterTensor(inBoth, tensor.elements(), states, tensor.copies()),
                  alike)));
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
