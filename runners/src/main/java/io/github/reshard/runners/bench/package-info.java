/** Synthetic checkpoints of any size and shape, to measure with. */
package io.github.reshard.runners.bench;
