package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.ExportRequest;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.IOException;

/** Plans the consolidated weights of a checkpoint as safetensors. */
public final class WeightsWriter implements CheckpointWriter {
  private final CheckpointFiles files;
  private final ExportRequest request;

  /**
   * @param files of the source
   */
  public WeightsWriter(CheckpointFiles files, ExportRequest request) {
    this.files = files;
    this.request = request;
  }

  @Override
  public ReshardPlan plan(TrainingState state, Target target) throws IOException {
    return WeightsPlanner.plan(state, files, target, request);
  }
}
