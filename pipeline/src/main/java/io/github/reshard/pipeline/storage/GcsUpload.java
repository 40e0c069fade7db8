package io.github.reshard.pipeline.storage;

import com.google.cloud.storage.BlobInfo;
import com.google.cloud.storage.BlobWriteSession;
import com.google.cloud.storage.Storage;
import com.google.cloud.storage.StorageException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.WritableByteChannel;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.zip.CRC32C;

/** An object that is being written, in one request if it is short. */
final class GcsUpload implements ObjectStore.Upload {
  /** What is not longer is sent with one request, which says its CRC-32C beforehand. */
  private static final int ONE_REQUEST_BYTES = 2 << 20;

  private final GcsObjectStore store;
  private final String name;
  private final Map<String, String> metadata;
  private final CRC32C crc = new CRC32C();
  private ByteBuffer head = ByteBuffer.allocate(ONE_REQUEST_BYTES);
  private WritableByteChannel channel;
  private BlobWriteSession session;
  private long bytes;

  GcsUpload(GcsObjectStore store, String name, Map<String, String> metadata) {
    this.store = store;
    this.name = name;
    this.metadata = metadata;
  }

  @Override
  public void write(ByteBuffer source) throws IOException {
    crc.update(source.duplicate());
    bytes += source.remaining();
    try {
      if (channel == null) {
        if (source.remaining() <= head.remaining()) {
          head.put(source);
          return;
        }
        session =
            store
                .storage()
                .blobWriteSession(
                    store.info(name, metadata).build(), Storage.BlobWriteOption.doesNotExist());
        channel = session.open();
        writeAll(head.flip());
        head = null;
      }
      writeAll(source);
    } catch (IOException e) {
      throw unlessThere(e);
    }
  }

  private void writeAll(ByteBuffer source) throws IOException {
    while (source.hasRemaining()) {
      channel.write(source);
    }
  }

  @Override
  public void complete() throws IOException {
    int value = (int) crc.getValue();
    try {
      if (channel == null) {
        store
            .storage()
            .create(
                store.info(name, metadata).setCrc32c(GcsObjectStore.base64(value)).build(),
                head.array(),
                0,
                head.position(),
                Storage.BlobTargetOption.doesNotExist());
        return;
      }
      channel.close();
      BlobInfo written = session.getResult().get(1, TimeUnit.MINUTES);
      if (written.getSize() != bytes || !GcsObjectStore.base64(value).equals(written.getCrc32c())) {
        store.storage().delete(written.getBlobId());
        store.requireSame(name, bytes, value);
      }
    } catch (StorageException e) {
      throwUnlessThere(e, value);
    } catch (IOException e) {
      StorageException cause = causeIn(e);
      if (cause == null) {
        throw e;
      }
      throwUnlessThere(cause, value);
    } catch (ExecutionException e) {
      StorageException cause = causeIn(e);
      if (cause == null) {
        throw new IOException(store.uri(name) + ": the upload failed", e);
      }
      throwUnlessThere(cause, value);
    } catch (TimeoutException e) {
      throw new IOException(store.uri(name) + ": the upload did not end", e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IOException("interrupted", e);
    }
  }

  private void throwUnlessThere(StorageException e, int value) {
    if (e.getCode() != 412) {
      throw store.failure(name, e);
    }
    store.requireSame(name, bytes, value);
  }

  private IOException unlessThere(IOException e) {
    StorageException cause = causeIn(e);
    if (cause == null) {
      return e;
    }
    throw store.failure(name, cause);
  }

  @Override
  public void abandon() {
    // Only closing makes the object; the store forgets an upload that nobody goes on with.
    channel = null;
  }

  private static StorageException causeIn(Throwable thrown) {
    for (Throwable t = thrown; t != null; t = t.getCause()) {
      if (t instanceof StorageException found) {
        return found;
      }
    }
    return null;
  }
}
