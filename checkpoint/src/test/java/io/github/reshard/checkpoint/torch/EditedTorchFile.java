package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.Corpus;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.CRC32;

/** A torch file that a test changes and writes back, with the checksums that belong to it. */
public final class EditedTorchFile {
  private final Path path;
  private final TorchFile file;
  private final PyObject root;
  private String archiveName;
  private final Map<String, ByteBuffer> storages = new LinkedHashMap<>();

  public EditedTorchFile(Path path) throws IOException {
    this.path = path;
    try (RangedFile open = Corpus.open(path)) {
      file = TorchFile.read(open);
      root = file.parse().root();
      archiveName = file.archiveName();
      for (TorchFile.Entry entry : file.entries()) {
        if (entry.name().startsWith("data/")) {
          ByteBuffer bytes =
              ByteBuffer.allocate((int) entry.bytes()).order(ByteOrder.LITTLE_ENDIAN);
          open.readFully(entry.payloadOffset(), bytes);
          storages.put(entry.name().substring("data/".length()), bytes.flip());
        }
      }
    }
  }

  /** The value at the root, whose graph may be changed. */
  public PickledValue root() {
    return PickledValue.root(path.toString(), root);
  }

  /** The bytes of a storage, which may be changed. */
  public ByteBuffer storage(String key) {
    return storages.get(key);
  }

  /** Gives a storage other bytes. */
  public void setStorage(String key, ByteBuffer bytes) {
    storages.put(key, bytes);
  }

  /** Calls the archive as if the file had been saved as {@code name}. */
  public void setArchiveName(String name) {
    archiveName = name;
  }

  public void write() throws IOException {
    List<StorageSize> sizes = new ArrayList<>();
    Map<String, Integer> crcs = new HashMap<>();
    storages.forEach(
        (key, bytes) -> {
          sizes.add(new StorageSize(key, bytes.capacity()));
          CRC32 crc = new CRC32();
          crc.update(bytes.duplicate());
          crcs.put(key, (int) crc.getValue());
        });
    TorchFileLayout layout =
        TorchFileLayout.plan(
            file.style(),
            archiveName,
            PickleWriter.write(root, file.parse().protocol()),
            sizes,
            // PyTorch before 2.1 has none.
            file.serializationId().orElse(new byte[0]));
    ByteBuffer whole = ByteBuffer.allocate((int) layout.totalBytes());
    for (ByteSegment segment : layout.segments(crcs)) {
      whole.put((int) segment.offset(), segment.bytes());
    }
    storages.forEach(
        (key, bytes) -> whole.put((int) layout.payloadOffset(key), bytes, 0, bytes.capacity()));
    Files.write(path, whole.array());
  }
}
