/**
 * What all of DeepSpeed's formats share: the names of its files, its configuration, model files,
 * experts, and what ranks hold in common.
 */
package io.github.reshard.checkpoint.deepspeed;
