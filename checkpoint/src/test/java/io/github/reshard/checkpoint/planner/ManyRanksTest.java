package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.util.Optional;
import org.junit.jupiter.api.Test;

/** The plan of a checkpoint of 10,000 parameters between 1,024 and 768 ranks. */
class ManyRanksTest {
  private static final int PARAMETERS = 10_000;
  private static final int SOURCE_RANKS = 1024;
  private static final int TARGET_RANKS = 768;
  private static final long MOST_BYTES = 400L << 20;

  @Test
  void planningTakesMemoryInProportionToTheMetadata() throws Exception {
    UniformCheckpoint store = new UniformCheckpoint(PARAMETERS, SOURCE_RANKS);
    CheckpointFiles files = CheckpointFiles.discover(store, "uniform", Optional.empty());

    long begin = System.nanoTime();
    ReshardPlan plan = ReshardPlanner.plan(store, files, TARGET_RANKS, 64 << 20);
    double seconds = (System.nanoTime() - begin) / 1e9;

    System.gc();
    long used = Runtime.getRuntime().totalMemory() - Runtime.getRuntime().freeMemory();
    System.out.printf(
        "%d parameters, %d to %d ranks: planned in %.1f s, %d MiB are in use after it%n",
        PARAMETERS, SOURCE_RANKS, TARGET_RANKS, seconds, used >> 20);
    assertThat(plan.targets()).hasSize(2 * TARGET_RANKS);
    assertThat(plan.models().get(0).targetPartitions()).hasSize(3 * TARGET_RANKS);
    assertThat(used).isLessThan(MOST_BYTES);
  }
}
