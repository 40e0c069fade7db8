package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.IOException;

/** Plans a checkpoint of one format, made of a training state that a reader of any format gave. */
public interface CheckpointWriter {
  /**
   * Plans the files. Nothing is written.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if the format, or the run that is to load
   *     it, has no place for what the state has
   */
  ReshardPlan plan(TrainingState state, Target target) throws IOException;
}
