/** Checkpoints in object stores, behind the seam of {@code checkpoint.storage}. */
package io.github.reshard.pipeline.storage;
