package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.transforms.Create;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.values.PBegin;
import org.apache.beam.sdk.values.PCollection;

/** Where a graph begins that is given its plans: everything that they list. */
public final class PlanItems extends PTransform<PBegin, PCollection<Keyed<PlanItem>>> {
  private static final long serialVersionUID = 1L;

  private final List<Keyed<PlanItem>> items;

  private PlanItems(List<Keyed<PlanItem>> items) {
    this.items = List.copyOf(items);
  }

  /** Everything that {@code plans} list, by the keys of their reshards. */
  public static PlanItems ofAll(Map<String, ReshardPlan> plans) {
    List<Keyed<PlanItem>> items = new ArrayList<>();
    plans.forEach(
        (key, plan) -> PlanItem.allOf(plan).forEach(item -> items.add(new Keyed<>(key, item))));
    return new PlanItems(items);
  }

  /** These alone, in their order. */
  public static PlanItems of(List<Keyed<PlanItem>> items) {
    return new PlanItems(items);
  }

  /** How they travel. */
  public static Coder<Keyed<PlanItem>> coder() {
    return Keyed.coder(Coders.PLAN_ITEM);
  }

  @Override
  public PCollection<Keyed<PlanItem>> expand(PBegin begin) {
    return begin.apply("Items", Create.of(items).withCoder(coder()));
  }
}
