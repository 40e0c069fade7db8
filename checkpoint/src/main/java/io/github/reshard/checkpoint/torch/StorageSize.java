package io.github.reshard.checkpoint.torch;

import java.io.Serializable;

/**
 * A storage to be laid out.
 *
 * @param key its key in the pickle; the entry is {@code data/KEY}
 * @param bytes its length in bytes
 */
public record StorageSize(String key, long bytes) implements Serializable {}
