package io.github.reshard.checkpoint.planner;

import java.util.Optional;
import java.util.OptionalInt;

/**
 * Another format that a checkpoint is asked for in.
 *
 * @param format its name
 * @param ranks data-parallel ranks that will load, if they were said
 * @param stage the ZeRO stage that these have, or {@link
 *     io.github.reshard.checkpoint.deepspeed.ZeroStage#AS_SAVED} if it was not said
 * @param dialect whose names a distributed checkpoint has
 * @param files into how many data files one is written
 * @param partBytes the size of a part of a target file
 */
public record Request(
    String format,
    OptionalInt ranks,
    int stage,
    Optional<String> dialect,
    OptionalInt files,
    long partBytes) {}
