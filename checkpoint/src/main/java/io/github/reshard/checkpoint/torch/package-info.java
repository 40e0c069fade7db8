/**
 * The {@code torch.save} container: read by ranges, planned to the byte, and the tensors that its
 * pickle describes.
 */
package io.github.reshard.checkpoint.torch;
