package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.dcp.DcpMetadata.Place;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;

/**
 * A container in a data file, as if it were a file. The file stays open when this is closed.
 *
 * @param file the data file
 * @param place where in it
 * @param key the key that it holds, for messages
 */
record ByteWindow(RangedFile file, Place place, String key) implements RangedFile {
  @Override
  public String path() {
    return "%s, '%s' at byte %d".formatted(file.path(), key, place.offset());
  }

  @Override
  public long size() {
    return place.bytes();
  }

  @Override
  public void readFully(long position, ByteBuffer target) throws IOException {
    if (position < 0 || target.remaining() > place.bytes() - position) {
      throw new EOFException(path() + " has " + place.bytes() + " bytes");
    }
    file.readFully(place.offset() + position, target);
  }

  @Override
  public void close() {}
}
