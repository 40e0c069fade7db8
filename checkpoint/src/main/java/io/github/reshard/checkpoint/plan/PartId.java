package io.github.reshard.checkpoint.plan;

import java.io.Serializable;

/**
 * A range of bytes of a file that one worker handles: bytes {@code part * partBytes} up to the next
 * multiple.
 *
 * @param source whether {@code file} is a source file, whose bytes are read to be proven and go
 *     nowhere
 * @param file index into {@link ReshardPlan#targets()} or {@link ReshardPlan#sources()}
 * @param part the number of the range in the file
 */
public record PartId(boolean source, int file, int part) implements Serializable {}
