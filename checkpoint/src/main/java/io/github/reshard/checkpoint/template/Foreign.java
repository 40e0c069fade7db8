package io.github.reshard.checkpoint.template;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.IOException;

/**
 * A checkpoint of another trainer: no ranks of DeepSpeed saved it, and it does not say all that
 * DeepSpeed needs.
 */
public interface Foreign {
  /** What it is, with its article: {@code a distributed checkpoint of PyTorch}. */
  String what();

  /** What it holds, from its metadata alone. */
  Contents contents();

  /**
   * Writes the files of a template with the training of this checkpoint in them.
   *
   * @param writer of the template's files
   * @param template the files of a checkpoint that the run which is to load saved
   * @param where that is, for messages
   * @throws RefusedException if no template like this one can be filled
   */
  CheckpointWriter onto(CheckpointWriter writer, CheckpointFiles template, String where);

  /**
   * Looks at this checkpoint beside one of DeepSpeed of the same training state.
   *
   * @param other that one
   * @param plan of it
   * @param files of it
   * @throws RefusedException if they are of different models or optimizers, or one is not sound
   */
  Comparison compare(TrainingState other, ReshardPlan plan, CheckpointFiles files)
      throws IOException;

  /**
   * Looks at this checkpoint beside another one of another trainer.
   *
   * @throws RefusedException if the two are of different kinds or models, or one is not sound
   */
  Comparison compare(Foreign other) throws IOException;
}
