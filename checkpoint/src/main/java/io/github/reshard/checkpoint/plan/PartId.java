package io.github.reshard.checkpoint.plan;

import java.io.Serializable;

/**
 * A range of bytes of a file that one worker handles: bytes {@code part * partBytes} up to the next
 * multiple.
 *
 * <p>Runners hand parts out by their hash or their encoded bytes. The number stands before the file
 * in both, so that workers take parts of different files at a time: those of one file would wait
 * for each other, because a file system lets one write into a file at once.
 *
 * @param source whether {@code file} is a source file, whose bytes are read to be proven and go
 *     nowhere
 * @param part the number of the range in the file
 * @param file index into {@link ReshardPlan#targets()} or {@link ReshardPlan#sources()}
 */
public record PartId(boolean source, int part, int file) implements Serializable {}
