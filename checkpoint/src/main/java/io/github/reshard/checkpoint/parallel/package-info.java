/**
 * How tensor parallelism cuts a parameter, as pure functions. Nothing plans with it yet: the
 * tensor-parallel degree still stays as saved.
 */
package io.github.reshard.checkpoint.parallel;
