package io.github.reshard.checkpoint.parallel;

import java.util.OptionalInt;

/**
 * How the experts of a target are divided.
 *
 * @param size the expert-parallel size
 * @param maxGroupElements up to how many elements a param group of experts holds, {@code
 *     max_group_size} of the script, if it is said
 */
public record ExpertTarget(int size, OptionalInt maxGroupElements) {}
