/** From a checkpoint to the plan of its reshard: here alone all formats are known. */
package io.github.reshard.checkpoint.planner;
