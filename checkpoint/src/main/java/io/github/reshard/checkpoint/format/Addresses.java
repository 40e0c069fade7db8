package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.Collections;
import java.util.Comparator;

/** Where tensors of torch files begin. */
public final class Addresses {
  /** The entry of bytes that belong to no zip entry's payload. */
  public static final int NO_ENTRY = -1;

  private Addresses() {}

  /**
   * Where {@code tensor} of a file begins.
   *
   * @param source the file as a plan has it
   * @param index its index there
   * @param where the tensor is, for messages
   * @throws RefusedException if it is not all in the file
   */
  public static Address of(
      SourceFile source, int index, TorchFile file, String where, TensorNode tensor) {
    Address begin = of(source, index, file, where, tensor.storage());
    tensor.requireInBounds(where);
    return begin.plus(tensor.storageOffset() * tensor.dtype().bytes());
  }

  /** Where {@code storage} of a file begins. */
  public static Address of(
      SourceFile source, int index, TorchFile file, String where, StorageNode storage) {
    if (storage.bytes() == 0) {
      return new Address(index, NO_ENTRY, 0);
    }
    TorchFile.Entry entry =
        file.storage(storage.key())
            .orElseThrow(
                () ->
                    new RefusedException(
                        where,
                        "the file has no storage '%s'. It is damaged.".formatted(storage.key())));
    if (entry.bytes() != storage.bytes()) {
      throw new RefusedException(
          where,
          "the pickle says that storage '%s' has %d bytes, the zip entry %s has %d. The file is damaged."
              .formatted(storage.key(), storage.bytes(), entry.name(), entry.bytes()));
    }
    return of(source, index, entry);
  }

  /** Where the storage {@code key} of a file begins; nowhere if it has 0 bytes. */
  static Address ofKey(SourceFile source, int index, TorchFile file, String key) {
    return file.storage(key)
        .map(entry -> of(source, index, entry))
        .orElse(new Address(index, NO_ENTRY, 0));
  }

  private static Address of(SourceFile source, int index, TorchFile.Entry entry) {
    int found =
        entry.bytes() == 0
            ? NO_ENTRY
            : Collections.binarySearch(
                source.entries(), entry, Comparator.comparingLong(TorchFile.Entry::payloadOffset));
    return new Address(index, found, entry.payloadOffset());
  }
}
