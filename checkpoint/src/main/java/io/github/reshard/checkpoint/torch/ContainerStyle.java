package io.github.reshard.checkpoint.torch;

import java.util.Optional;

/**
 * How a version of PyTorch lays out its container ({@code torch/serialization.py}, {@code _save}).
 *
 * @param formatVersion the text of {@code .format_version}, which PyTorch 2.7 introduced
 * @param storageAlignment the text of {@code .storage_alignment}, likewise
 * @param byteorder the text of {@code byteorder}, which PyTorch 2.1 introduced
 * @param serializationId whether there is a {@code .data/serialization_id}, which PyTorch 2.1
 *     introduced
 * @param version the text of {@code version}
 * @param order in which order the storages lie
 * @param alignment of every payload, in bytes
 * @param crcs whether CRCs are recorded; without {@code compute_crc32} all are 0
 */
public record ContainerStyle(
    Optional<String> formatVersion,
    Optional<String> storageAlignment,
    Optional<String> byteorder,
    boolean serializationId,
    String version,
    StorageOrder order,
    int alignment,
    boolean crcs) {

  /** The order of the storage entries. */
  public enum StorageOrder {
    /** By key as text: 0, 1, 10, 2. PyTorch up to 2.6. */
    LEXICOGRAPHIC,
    /** As the pickle first mentions them: 0, 1, 2, 10. PyTorch from 2.7, format version 1. */
    AS_GIVEN
  }

  static final int DEFAULT_ALIGNMENT = 64;

  /**
   * PyTorch 2.6. It has no {@code .format_version}, so that no reader computes offsets instead of
   * reading them; the style for a file whose own can not be reproduced.
   */
  public static final ContainerStyle PLAIN =
      new ContainerStyle(
          Optional.empty(),
          Optional.empty(),
          Optional.of("little"),
          true,
          "3\n",
          StorageOrder.LEXICOGRAPHIC,
          DEFAULT_ALIGNMENT,
          true);

  /** The same, with CRCs or without. */
  public ContainerStyle withCrcs(boolean on) {
    return new ContainerStyle(
        formatVersion, storageAlignment, byteorder, serializationId, version, order, alignment, on);
  }
}
