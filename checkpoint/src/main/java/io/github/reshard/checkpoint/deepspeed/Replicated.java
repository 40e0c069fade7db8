package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.torch.TensorNode;

/** Optimizer state that every rank holds alike, such as Adam's {@code step}. */
public final class Replicated {
  private Replicated() {}

  /**
   * Whether {@code tensor} is not partitioned. A partition has at least two elements (the alignment
   * of a flat group is two a rank), so a tensor of one element that is the whole of its storage
   * cannot be one.
   */
  public static boolean isReplicated(TensorNode tensor) {
    return tensor.shape().length == 0 || (tensor.numel() == 1 && tensor.storageElements() == 1);
  }
}
