/**
 * The seam to where checkpoints lie: listing, ranged reads, positional writes; and the local file
 * system behind it.
 */
package io.github.reshard.checkpoint.storage;
