/** ZeRO-1 and 2, and BF16_Optimizer: each param group flat and cut into equal partitions. */
package io.github.reshard.checkpoint.zero12;
