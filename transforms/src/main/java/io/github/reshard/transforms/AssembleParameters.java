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
        .setCoder(
            KvCoder.of(
                Keyed.coder(VarIntCoder.of()), KvCoder.of(Coders.PARAM_ID, Coders.RANK_SLICE)))
        .apply("ByParameter", new Gather<>(reshards, new AllSlices()))
        .apply("Assemble", ParDo.of(new Assemble(reshards)))
        .setCoder(Keyed.coder(Coders.PARAMETER_TENSOR));
  }

  /** Whole when every rank has said what it holds of the parameters of a key. */
  private static final class AllSlices implements Gather.Measure<Integer, KV<ParamId, RankSlice>> {
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
    public long count(KV<ParamId, RankSlice> slice) {
      return 1;
    }
  }

  private static final class KeyBySome
      extends DoFn<KV<Keyed<ParamId>, RankSlice>, KV<Keyed<Integer>, KV<ParamId, RankSlice>>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    KeyBySome(Reshards reshards) {
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @ProcessElement
    public void process(
        @Element KV<Keyed<ParamId>, RankSlice> slice,
        OutputReceiver<KV<Keyed<Integer>, KV<ParamId, RankSlice>>> out)
        throws IOException {
      ParamId id = slice.getKey().item();
      String reshard = slice.getKey().reshard();
      finder.run(
          reshard,
          planned -> {
            PlanIndex index = planned.index();
            int key = index.keys().keyOf(index.find(id).ordinal());
            out.output(KV.of(new Keyed<>(reshard, key), KV.of(id, slice.getValue())));
          });
    }
  }

  private static final class Assemble
      extends DoFn<KV<Keyed<Integer>, Iterable<KV<ParamId, RankSlice>>>, Keyed<ParameterTensor>> {
    private static final long serialVersionUID = 1L;
    private final PlannedReshard.Finder finder;

    Assemble(Reshards reshards) {
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @ProcessElement
    public void process(
        @Element KV<Keyed<Integer>, Iterable<KV<ParamId, RankSlice>>> slices,
        OutputReceiver<Keyed<ParameterTensor>> out)
        throws IOException {
      Map<ParamId, List<RankSlice>> byParameter = new LinkedHashMap<>();
      for (KV<ParamId, RankSlice> slice : slices.getValue()) {
        byParameter.computeIfAbsent(slice.getKey(), id -> new ArrayList<>()).add(slice.getValue());
      }
      String reshard = slices.getKey().reshard();
      finder.run(
          reshard,
          planned -> {
            List<ParameterTensor> tensors = new ArrayList<>();
            byParameter.forEach((id, all) -> tensors.add(assemble(planned, id, all)));
            tensors.forEach(tensor -> out.output(new Keyed<>(reshard, tensor)));
          });
    }

    private static ParameterTensor assemble(
        PlannedReshard planned, ParamId id, List<RankSlice> slices) {
      PlanIndex.Place place = planned.index().find(id);
      PartitionedModel model = planned.plan().models().get(place.model());
      return Repartition.assemble(model, place.parameter(), id, slices);
    }
  }
}
