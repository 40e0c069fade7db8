/** Moves the bytes of slices in one pass: read, checksum, check the claim, write. */
package io.github.reshard.checkpoint.copy;
