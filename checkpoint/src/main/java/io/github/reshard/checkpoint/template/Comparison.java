package io.github.reshard.checkpoint.template;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.util.List;

/**
 * A checkpoint of another trainer beside one of DeepSpeed.
 *
 * @param plan of its parameters, whose sources alone are of use
 * @param differences of all that is not partitioned, a sentence each
 * @param notes what could not be compared, a sentence each
 */
public record Comparison(ReshardPlan plan, List<String> differences, List<String> notes) {
  public Comparison {
    differences = List.copyOf(differences);
    notes = List.copyOf(notes);
  }
}
