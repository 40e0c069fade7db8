/**
 * DeepSpeed's Universal Checkpoints: every state of every parameter whole, in a file of its own.
 */
package io.github.reshard.checkpoint.universal;
