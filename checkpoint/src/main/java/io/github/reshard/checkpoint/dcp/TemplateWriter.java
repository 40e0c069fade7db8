package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.IOException;

/**
 * Writes files of DeepSpeed, made of a distributed checkpoint of PyTorch. What that does not hold -
 * how the module's weights are cast, loss scaling, the configuration - comes from a template: a
 * checkpoint that the run which is to load them saved after one step. Its reshard to the target's
 * ranks is planned, and then every tensor and number that is of training comes from the distributed
 * checkpoint instead.
 *
 * @param files of the template
 * @param writer of its files
 */
record TemplateWriter(DcpCheckpoint dcp, CheckpointFiles files, CheckpointWriter writer)
    implements CheckpointWriter {
  /**
   * @param state the template's
   */
  @Override
  public ReshardPlan plan(TrainingState state, Target target) throws IOException {
    return FilledTemplate.plan(dcp, state, files, writer.plan(state, target));
  }
}
