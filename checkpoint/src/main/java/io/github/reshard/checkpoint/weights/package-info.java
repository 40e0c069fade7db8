/**
 * Consolidated weights as Hugging Face's {@code save_pretrained} writes them: safetensors, in files
 * of a few gigabytes with an index, the configuration beside them.
 */
package io.github.reshard.checkpoint.weights;
