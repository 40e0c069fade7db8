package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFacts;
import io.github.reshard.checkpoint.deepspeed.FrozenWeights;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.TargetDegrees;
import io.github.reshard.checkpoint.state.ModelParallelism;
import java.io.IOException;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;

/** One of two checkpoints that are compared. */
record ComparedSide(Source source, CheckpointFacts facts, TrainingState state, ReshardPlan plan) {
  static ComparedSide of(Source source, CommandOptions options) throws IOException {
    CheckpointFacts facts = CheckpointFacts.readWhole(source.store(), source.files());
    Target target = new Target(source.dataParallelRanks(), options.getPartBytes());
    TrainingState state = source.found().reader().read(target.worldSize());
    return new ComparedSide(
        source,
        facts,
        state,
        source.found().writer().apply(ZeroStage.AS_SAVED).plan(state, target));
  }

  /** The same parameters, joined of the model-parallel ranks that have them. */
  ComparedSide joined(CommandOptions options) throws IOException {
    ModelParallelism saved = facts.parallelism();
    boolean cut =
        saved.tensorDegree() != 1
            || facts.modelValues().keySet().stream().anyMatch(OfDegrees::isInfo);
    boolean stages = saved.pipelineDegree() > 1;
    if (source.isBare() || (!cut && !stages)) {
      return this;
    }
    try {
      return new ComparedSide(
          source,
          OfDegrees.without(facts),
          state,
          source.plan(
              source.dataParallelRanks(),
              ZeroStage.AS_SAVED,
              TargetDegrees.joined(cut, stages),
              options.getPartBytes()));
    } catch (RefusedException e) {
      throw new RefusedException(
          plan.checkpoint(),
          "the two are of different grids, and what model-parallel ranks of this one have cannot"
              + " be joined to be compared: "
              + e.getMessage(),
          e);
    }
  }

  /** With the frozen parameters that only {@code other} partitions, to be compared with them. */
  ComparedSide besides(ComparedSide other) throws IOException {
    List<String> frozen = FrozenWeights.names(other.plan);
    if (!FrozenWeights.names(plan).isEmpty() || frozen.isEmpty()) {
      return this;
    }
    ReshardPlan added = FrozenWeights.added(plan, other.plan, source.store(), source.files());
    SortedMap<String, String> rest = new TreeMap<>(facts.moduleTensors());
    rest.keySet().removeAll(frozen);
    return new ComparedSide(source, facts.withModuleTensors(rest), state, added);
  }
}
