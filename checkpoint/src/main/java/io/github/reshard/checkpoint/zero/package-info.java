/**
 * The files of a ZeRO checkpoint: which there are, what they say, what those of other ranks would
 * say, and the plan.
 */
package io.github.reshard.checkpoint.zero;
