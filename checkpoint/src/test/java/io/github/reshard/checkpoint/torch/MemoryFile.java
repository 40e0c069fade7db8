package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;

/** A file in memory that counts how it is read. */
public final class MemoryFile implements RangedFile {
  private final byte[] bytes;
  int reads;
  long bytesRead;

  public MemoryFile(byte[] bytes) {
    this.bytes = bytes;
  }

  @Override
  public String path() {
    return "memory.pt";
  }

  @Override
  public long size() {
    return bytes.length;
  }

  @Override
  public void readFully(long position, ByteBuffer target) throws IOException {
    reads++;
    bytesRead += target.remaining();
    if (position > bytes.length - target.remaining()) {
      throw new EOFException("the end");
    }
    target.put(bytes, (int) position, target.remaining());
  }

  @Override
  public void close() {}
}
