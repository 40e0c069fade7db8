package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCrc;
import java.io.Serializable;

/**
 * The checksum of a run of bytes of an entry of a file that is known from elsewhere.
 *
 * @param entry index among the file's entries
 * @param crc the run
 */
record EntryCrc(int entry, SliceCrc crc) implements Serializable {}
