/** Safetensors files: which tensors they hold and where. */
package io.github.reshard.checkpoint.safetensors;
