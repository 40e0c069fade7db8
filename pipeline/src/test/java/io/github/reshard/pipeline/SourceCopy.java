package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.function.Consumer;
import java.util.zip.CRC32;

/** A copy of a case's source that a test may damage. */
record SourceCopy(Path directory, String tag) {
  static SourceCopy of(GoldenCase golden, Path directory) throws IOException {
    Files.createDirectories(directory.resolve(golden.tag()));
    for (String file : CheckpointComparison.fileNames(golden.source())) {
      Files.copy(golden.source().resolve(file), directory.resolve(file));
    }
    return new SourceCopy(directory, golden.tag());
  }

  Path file(String name) {
    return directory.resolve(tag).resolve(name);
  }

  /** Changes the bytes of a storage and leaves the checksum as it was. */
  void damage(String name, String storage, Consumer<ByteBuffer> change) throws IOException {
    edit(name, storage, change, false);
  }

  /** Changes the bytes of a storage and its checksum with them. */
  void change(String name, String storage, Consumer<ByteBuffer> change) throws IOException {
    edit(name, storage, change, true);
  }

  private void edit(String name, String storage, Consumer<ByteBuffer> change, boolean withChecksum)
      throws IOException {
    TorchContent content = TorchContent.read(file(name));
    TorchFile.Entry entry = content.file().storage(storage).orElseThrow();
    ByteBuffer all = ByteBuffer.wrap(content.bytes()).order(ByteOrder.LITTLE_ENDIAN);
    ByteBuffer payload =
        all.slice((int) entry.payloadOffset(), (int) entry.bytes()).order(ByteOrder.LITTLE_ENDIAN);
    change.accept(payload);
    if (withChecksum) {
      CRC32 crc = new CRC32();
      crc.update(payload.duplicate());
      for (int at = 0; at + 4 <= all.capacity(); at++) {
        if (all.getInt(at) == entry.crc32()) {
          all.putInt(at, (int) crc.getValue());
        }
      }
    }
    Files.write(file(name), content.bytes());
  }

  void swap(String one, String other) throws IOException {
    Path aside = file("aside");
    Files.move(file(one), aside);
    Files.move(file(other), file(one));
    Files.move(aside, file(other));
  }
}
