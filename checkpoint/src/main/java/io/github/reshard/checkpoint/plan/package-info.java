/**
 * The plan of a reshard as pure data: which bytes of which source file go where, and the arithmetic
 * that makes it.
 */
package io.github.reshard.checkpoint.plan;
