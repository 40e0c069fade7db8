package io.github.reshard.transforms;

import java.io.Serializable;

/**
 * An entry of a file.
 *
 * @param file index among the plan's sources, or among its targets
 * @param entry index among that file's entries
 */
record EntryId(int file, int entry) implements Serializable {}
