/**
 * How tensor parallelism cuts a parameter, as pure functions: the rules that a checkpoint or its
 * user gives, the widths of shards, and the boxes of the full tensor that follow, at the number of
 * ranks that saved it and at another.
 */
package io.github.reshard.checkpoint.parallel;
