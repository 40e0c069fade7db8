package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ParameterTensor;
import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.PartitionedModel;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * Brings the slices of each parameter together and proves that they cover every element of every
 * state once, or once a rank where ranks share a state.
 */
public final class AssembleParameters
    extends PTransform<PCollection<KV<ParamId, RankSlice>>, PCollection<ParameterTensor>> {
  private static final long serialVersionUID = 1L;

  private final PCollectionView<ReshardPlan> planView;

  /**
   * @param planView says how many elements and which states each parameter has
   */
  public AssembleParameters(PCollectionView<ReshardPlan> planView) {
    this.planView = planView;
  }

  @Override
  public PCollection<ParameterTensor> expand(PCollection<KV<ParamId, RankSlice>> slices) {
    return slices
        .apply("KeyBySome", ParDo.of(new KeyBySome(planView)).withSideInputs(planView))
        .setCoder(KvCoder.of(VarIntCoder.of(), KvCoder.of(Coders.PARAM_ID, Coders.RANK_SLICE)))
        .apply("ByParameter", GroupByKey.create())
        .apply("Assemble", ParDo.of(new Assemble(planView)).withSideInputs(planView))
        .setCoder(Coders.PARAMETER_TENSOR);
  }

  private static final class KeyBySome
      extends DoFn<KV<ParamId, RankSlice>, KV<Integer, KV<ParamId, RankSlice>>> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;
    private transient PlanIndex index;

    KeyBySome(PCollectionView<ReshardPlan> planView) {
      this.planView = planView;
    }

    @ProcessElement
    public void process(
        @Element KV<ParamId, RankSlice> slice,
        OutputReceiver<KV<Integer, KV<ParamId, RankSlice>>> out,
        ProcessContext context) {
      index = PlanIndex.of(context.sideInput(planView), index);
      out.output(KV.of(index.keys().keyOf(index.find(slice.getKey()).ordinal()), slice));
    }
  }

  private static final class Assemble
      extends DoFn<KV<Integer, Iterable<KV<ParamId, RankSlice>>>, ParameterTensor> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;
    private transient PlanIndex index;

    Assemble(PCollectionView<ReshardPlan> planView) {
      this.planView = planView;
    }

    @ProcessElement
    public void process(
        @Element KV<Integer, Iterable<KV<ParamId, RankSlice>>> slices,
        OutputReceiver<ParameterTensor> out,
        ProcessContext context) {
      ReshardPlan plan = context.sideInput(planView);
      index = PlanIndex.of(plan, index);
      Map<ParamId, List<RankSlice>> byParameter = new LinkedHashMap<>();
      for (KV<ParamId, RankSlice> slice : slices.getValue()) {
        byParameter.computeIfAbsent(slice.getKey(), id -> new ArrayList<>()).add(slice.getValue());
      }
      byParameter.forEach((id, all) -> out.output(assemble(plan, id, all)));
    }

    private ParameterTensor assemble(ReshardPlan plan, ParamId id, List<RankSlice> slices) {
      PlanIndex.Place place = index.find(id);
      PartitionedModel model = plan.models().get(place.model());
      return Repartition.assemble(model, place.parameter(), id, slices);
    }
  }
}
