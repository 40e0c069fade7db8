package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ParameterTensor;
import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.PartitionedModel;
import java.io.IOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;

/**
 * Brings the slices of each parameter together and proves that they cover every element of every
 * state once, or once a rank where ranks share a state.
 */
public final class AssembleParameters
    extends PTransform<
        PCollection<KV<Keyed<ParamId>, RankSlice>>, PCollection<Keyed<ParameterTensor>>> {
  private static final long serialVersionUID = 1L;

  private static final Coder<KV<Integer, RankSlice>> NUMBERED =
      KvCoder.of(VarIntCoder.of(), Coders.RANK_SLICE);

  private final Reshards reshards;

  /**
   * @param reshards their plans say how many elements and which states each parameter has
   */
  public AssembleParameters(Reshards reshards) {
    this.reshards = reshards;
  }

  @Override
  public PCollection<Keyed<ParameterTensor>> expand(
      PCollection<KV<Keyed<ParamId>, RankSlice>> slices) {
    return slices
        .apply("KeyBySome", ParDo.of(new KeyBySome(reshards)))
        .setCoder(KvCoder.of(Keyed.coder(VarIntCoder.of()), Packed.coder()))
        .apply("ByParameter", new Gather<>(reshards, new AllSlices()))
        .apply("Assemble", ParDo.of(new Assemble(reshards)))
        .setCoder(Keyed.coder(Coders.PARAMETER_TENSOR));
  }

  /** Whole when every rank has said what it holds of the parameters of a key. */
  private static final class AllSlices
      implements Gather.Measure<Integer, Packed<KV<Integer, RankSlice>>> {
    private static final long serialVersionUID = 1L;

    @Override
    public long expected(PlannedReshard planned, Integer key) {
      long slices = 0;
      for (PlanIndex.Place place : planned.index().placesOf(key)) {
        slices += Repartition.slices(planned.plan().models().get(place.model()), place.parameter());
      }
      return slices;
    }

    @Override
    public long count(Packed<KV<Integer, RankSlice>> slices) {
      return slices.counts();
    }
  }

  /** Packs slices by the key of their parameter, each with the parameter's number in the plan. */
  private static final class KeyBySome
      extends PackingFn<KV<Keyed<ParamId>, RankSlice>, Keyed<Integer>, KV<Integer, RankSlice>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    KeyBySome(Reshards reshards) {
      super(NUMBERED);
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @Override
    void pack(
        KV<Keyed<ParamId>, RankSlice> slice, Into<Keyed<Integer>, KV<Integer, RankSlice>> into)
        throws IOException {
      String reshard = slice.getKey().reshard();
      finder.run(
          reshard,
          planned -> {
            PlanIndex index = planned.index();
            int parameter = index.find(slice.getKey().item()).ordinal();
            into.add(
                new Keyed<>(reshard, index.keys().keyOf(parameter)),
                KV.of(parameter, slice.getValue()),
                1);
          });
    }
  }

  private static final class Assemble
      extends DoFn<
          KV<Keyed<Integer>, Iterable<Packed<KV<Integer, RankSlice>>>>, Keyed<ParameterTensor>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    Assemble(Reshards reshards) {
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @ProcessElement
    public void process(
        @Element KV<Keyed<Integer>, Iterable<Packed<KV<Integer, RankSlice>>>> slices,
        OutputReceiver<Keyed<ParameterTensor>> out)
        throws IOException {
      Map<Integer, List<RankSlice>> byParameter = new LinkedHashMap<>();
      for (Packed<KV<Integer, RankSlice>> packed : slices.getValue()) {
        packed.forEach(
            NUMBERED,
            slice ->
                byParameter
                    .computeIfAbsent(slice.getKey(), parameter -> new ArrayList<>())
                    .add(slice.getValue()));
      }
      String reshard = slices.getKey().reshard();
      finder.run(
          reshard,
          planned -> {
            List<ParameterTensor> tensors = new ArrayList<>();
            byParameter.forEach((number, all) -> tensors.add(assemble(planned, number, all)));
            tensors.forEach(tensor -> out.output(new Keyed<>(reshard, tensor)));
          });
    }

    private static ParameterTensor assemble(
        PlannedReshard planned, int parameter, List<RankSlice> slices) {
      PlanIndex.Place place = planned.index().places().get(parameter);
      PartitionedModel model = planned.plan().models().get(place.model());
      return Repartition.assemble(model, place.parameter(), planned.index().id(parameter), slices);
    }
  }
}
