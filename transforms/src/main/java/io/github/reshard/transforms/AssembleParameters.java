package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ParamId;
import io.github.reshard.checkpoint.plan.ParameterTensor;
import io.github.reshard.checkpoint.plan.PartitionedModel;
import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * Brings the slices of each parameter together and proves that they cover every element of every
 * state once.
 */
public final class AssembleParameters
    extends PTransform<PCollection<KV<ParamId, RankSlice>>, PCollection<ParameterTensor>> {
  private static final long serialVersionUID = 1L;

  private final PCollectionView<ReshardPlan> plan;

  /**
   * @param plan says how many elements and which states each parameter has
   */
  public AssembleParameters(PCollectionView<ReshardPlan> plan) {
    this.plan = plan;
  }

  @Override
  public PCollection<ParameterTensor> expand(PCollection<KV<ParamId, RankSlice>> slices) {
    return slices
        .apply("ByParameter", GroupByKey.create())
        .apply("Assemble", ParDo.of(new Assemble(plan)).withSideInputs(plan))
        .setCoder(Coders.PARAMETER_TENSOR);
  }

  private static final class Assemble
      extends DoFn<KV<ParamId, Iterable<RankSlice>>, ParameterTensor> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;
    private transient PlanIndex index;

    Assemble(PCollectionView<ReshardPlan> planView) {
      this.planView = planView;
    }

    @ProcessElement
    public void process(
        @Element KV<ParamId, Iterable<RankSlice>> slices,
        OutputReceiver<ParameterTensor> out,
        ProcessContext context) {
      ReshardPlan plan = context.sideInput(planView);
      index = PlanIndex.of(plan, index);
      PlanIndex.Place place = index.find(slices.getKey());
      PartitionedModel model = plan.models().get(place.model());
      out.output(
          ParameterTensor.assemble(
              slices.getKey(),
              model.parameters().get(place.parameter()).elements(),
              Repartition.expectedStates(model, place.parameter()),
              slices.getValue()));
    }
  }
}
