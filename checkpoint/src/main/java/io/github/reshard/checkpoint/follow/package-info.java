/**
 * Watching a directory in which a run saves: what is there from one look to the next, and when a
 * checkpoint is whole.
 */
package io.github.reshard.checkpoint.follow;
