/**
 * How parameters lie in the partitions of the ranks: pure functions of shapes, groups, config and
 * world size.
 */
package io.github.reshard.checkpoint.layout;
