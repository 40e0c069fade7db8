package io.github.reshard.pipeline.storage;

import com.google.cloud.ReadChannel;
import com.google.cloud.storage.BlobId;
import com.google.cloud.storage.Storage;
import com.google.cloud.storage.StorageException;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;

/** One bounded read of an object. */
final class GcsRange {
  private GcsRange() {}

  /**
   * Reads exactly the {@code bytes} bytes from {@code position} on, with one request unless it has
   * to be repeated.
   *
   * @throws StorageException if the store refuses
   */
  static byte[] read(Storage storage, BlobId id, long position, int bytes) throws IOException {
    ByteBuffer into = ByteBuffer.allocate(bytes);
    try (ReadChannel channel =
        storage.reader(id, Storage.BlobSourceOption.shouldReturnRawInputStream(true))) {
      // The client's own buffer would only copy once more.
      channel.setChunkSize(0);
      channel.seek(position);
      channel.limit(position + bytes);
      while (into.hasRemaining()) {
        if (channel.read(into) < 0) {
          throw new EOFException(
              "gs://%s/%s ends at byte %d, %d more bytes were expected"
                  .formatted(
                      id.getBucket(), id.getName(), position + into.position(), into.remaining()));
        }
      }
    } catch (IOException e) {
      if (e.getCause() instanceof StorageException refused) {
        throw refused;
      }
      throw e;
    }
    return into.array();
  }
}
