/**
 * PyTorch's Distributed Checkpoint (DCP): a {@code .metadata} that says which box of which tensor
 * lies where, and {@code .distcp} files that are rows of small {@code torch.save} containers.
 */
package io.github.reshard.checkpoint.dcp;
