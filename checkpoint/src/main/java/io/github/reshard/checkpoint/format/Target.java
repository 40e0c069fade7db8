package io.github.reshard.checkpoint.format;

/**
 * What a checkpoint is written for.
 *
 * @param worldSize data-parallel ranks that will load it
 * @param partBytes the size of a part of a target file
 */
public record Target(int worldSize, long partBytes) {}
