package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCrc;
import java.io.Serializable;

/**
 * The checksum of a run of bytes of an entry of a file.
 *
 * @param file index among the plan's sources, or among its targets
 * @param entry index among the file's entries
 * @param crc the run
 */
record EntryCrc(int file, int entry, SliceCrc crc) implements Serializable {}
