/** Safetensors files: which tensors they hold and where, read and to be written. */
package io.github.reshard.checkpoint.safetensors;
