/**
 * How tensor parallelism cuts a parameter, as pure functions: the widths of shards, and the boxes
 * of the full tensor that follow. Nothing plans with it yet: the tensor-parallel degree still stays
 * as saved.
 */
package io.github.reshard.checkpoint.parallel;
