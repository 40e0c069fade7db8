package io.github.reshard.checkpoint.template;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.util.List;

/**
 * A checkpoint of another trainer beside another checkpoint.
 *
 * @param plan of its tensors, whose sources alone are of use
 * @param other a plan of the same tensors of the other checkpoint
 * @param differences of all that is not partitioned, a sentence each
 * @param notes what could not be compared, a sentence each
 */
public record Comparison(
    ReshardPlan plan, ReshardPlan other, List<String> differences, List<String> notes) {
  public Comparison {
    differences = List.copyOf(differences);
    notes = List.copyOf(notes);
  }
}
