/**
 * The open training state: weights and states as safetensors, all else as JSON, and no pickle.
 * docs/open-state.md is the format.
 */
package io.github.reshard.checkpoint.openstate;
