package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;

/**
 * A torch file of the source that was read.
 *
 * @param source its index in {@link TrainingState#sources()}, and so in the plan's
 * @param file the file
 */
public record ReadFile(int source, TorchFile file) {
  /** What it says, unpickled anew: the nodes are the caller's to edit. */
  public PickledValue root() {
    return PickledValue.root(file.path(), file.parse().root());
  }
}
