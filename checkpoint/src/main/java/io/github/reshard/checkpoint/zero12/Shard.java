package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.torch.TorchFile;

/**
 * One source rank's optimizer file of ZeRO-1 or 2.
 *
 * @param source index into the plan's sources
 * @param file the file
 * @param states what it says
 */
public record Shard(int source, TorchFile file, OptimizerStates states) {}
