package io.github.reshard.testing;

import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageSize;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import java.io.IOException;
import java.io.UncheckedIOException;
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

  /** Reads all of the file at {@code path}. */
  public EditedTorchFile(Path path) {
    this.path = path;
    TorchContent content = TorchContent.read(path);
    file = content.file();
    root = content.root();
    archiveName = file.archiveName();
    for (TorchFile.Entry entry : file.entries()) {
      if (entry.name().startsWith("data/")) {
        String key = entry.name().substring("data/".length());
        storages.put(key, ByteBuffer.wrap(content.storage(key)).order(ByteOrder.LITTLE_ENDIAN));
      }
    }
  }

  /** The value at the root, whose graph may be changed. */
  public PickledValue root() {
    return PickledValue.root(path.toString(), root);
  }

  /** The bytes of all storages by their keys, in the order of the file. */
  public Map<String, ByteBuffer> storages() {
    return storages;
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

  /** Writes the file again where it was. */
  public void write() {
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
    try {
      Files.write(path, whole.array());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
