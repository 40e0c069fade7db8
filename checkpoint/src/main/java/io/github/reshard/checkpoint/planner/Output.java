package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.plan.ReshardPlan;

/**
 * What becomes of a checkpoint.
 *
 * @param plan of it
 * @param form what it is made as, in words
 * @param latest the file that names its tag
 */
public record Output(ReshardPlan plan, String form, String latest) {}
