package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Item;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Place;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * A directory with a distributed checkpoint: {@code .metadata} and the files that it names.
 *
 * @param path the directory
 * @param metadataFile the {@code .metadata}
 * @param metadata what that says
 * @param files the data files that it names, each as long as it says at least
 */
public record DcpDirectory(
    String path, FileStat metadataFile, DcpMetadata metadata, Map<String, FileStat> files) {
  private static final long MOST_METADATA = 1L << 30;

  /** Written while a save is under way (torch/distributed/checkpoint/filesystem.py, finish). */
  private static final String UNFINISHED = DcpMetadata.FILE_NAME + ".tmp";

  /**
   * Reads {@code directory} if a distributed checkpoint lies there.
   *
   * @throws RefusedException if one was begun there and is not whole, or is not understood
   */
  public static Optional<DcpDirectory> find(SourceStore store, String directory)
      throws IOException {
    Map<String, FileStat> listed = new LinkedHashMap<>();
    store.list(directory).files().forEach(file -> listed.put(file.name(), file));
    FileStat file = listed.get(DcpMetadata.FILE_NAME);
    if (file == null) {
      if (listed.containsKey(UNFINISHED)
          || listed.keySet().stream().anyMatch(n -> n.endsWith(DcpMetadata.DATA_SUFFIX))) {
        throw new RefusedException(
            directory,
            "has %s and no %s, which is written last: the save has not ended, or did not. Wait for it, or take the checkpoint before."
                .formatted(
                    listed.containsKey(UNFINISHED) ? UNFINISHED : "*" + DcpMetadata.DATA_SUFFIX,
                    DcpMetadata.FILE_NAME));
      }
      return Optional.empty();
    }
    if (file.bytes() > MOST_METADATA) {
      throw new RefusedException(
          file.path(),
          "is larger than 1 GiB (%d bytes): more than this program reads into memory."
              .formatted(file.bytes()));
    }
    ByteBuffer bytes = ByteBuffer.allocate((int) file.bytes());
    try (RangedFile open = store.open(file)) {
      open.readFully(0, bytes);
    }
    DcpMetadata metadata = MetadataReader.read(bytes.array(), file.path());
    return Optional.of(new DcpDirectory(directory, file, metadata, named(metadata, file, listed)));
  }

  private static Map<String, FileStat> named(
      DcpMetadata metadata, FileStat file, Map<String, FileStat> listed) {
    Map<String, FileStat> named = new LinkedHashMap<>();
    metadata
        .items()
        .forEach(
            (key, item) -> {
              for (Place place : places(item)) {
                FileStat data = listed.get(place.file());
                if (data == null || place.offset() + place.bytes() > data.bytes()) {
                  throw new RefusedException(
                      file.path(),
                      "'%s' lies in %s at byte %d with %d bytes; %s. Copy all files of the checkpoint."
                          .formatted(
                              key,
                              place.file(),
                              place.offset(),
                              place.bytes(),
                              data == null
                                  ? "there is no such file"
                                  : "that file has " + data.bytes() + " bytes"));
                }
                named.put(place.file(), data);
              }
            });
    return named;
  }

  private static List<Place> places(Item item) {
    return item instanceof DcpMetadata.Tensor tensor
        ? tensor.chunks().stream().map(Chunk::place).toList()
        : List.of(((DcpMetadata.Value) item).place());
  }

  private Optional<SaveId> id() {
    return SaveId.ofMetadata(metadata.saveId());
  }

  /** Whether each data file says that it is of this checkpoint and no other file of it. */
  public boolean tellsFilesApart() {
    return id().isPresent();
  }

  /** Reads containers, keeping data files open between them. */
  public Reading open(SourceStore store) {
    return new Reading(this, store);
  }

  /** Open data files. */
  public static final class Reading implements AutoCloseable {
    private final DcpDirectory directory;
    private final SourceStore store;
    private final Map<String, RangedFile> open = new HashMap<>();

    private Reading(DcpDirectory directory, SourceStore store) {
      this.directory = directory;
      this.store = store;
    }

    /**
     * The container at {@code place}, without the payloads of its storages. Offsets in it count
     * from its own begin.
     *
     * @param key what it holds, for messages
     */
    TorchFile container(String key, Place place) throws IOException {
      RangedFile file = open.get(place.file());
      if (file == null) {
        file = store.open(directory.files().get(place.file()));
        open.put(place.file(), file);
      }
      TorchFile container = TorchFile.read(new ByteWindow(file, place, key));
      Optional<SaveId> id = directory.id();
      if (id.isPresent() && !container.archiveName().equals(id.get().archive(place.file()))) {
        throw new RefusedException(
            container.path(),
            "expected the archive %s, which is called after the file and the checkpoint that %s is of, found %s. The file was exchanged with another one, of this checkpoint or another: copy all files of the checkpoint again."
                .formatted(
                    id.get().archive(place.file()),
                    DcpMetadata.FILE_NAME,
                    container.archiveName()));
      }
      return container;
    }

    /**
     * The elements of a chunk of {@code key}; offsets count from the start of its data file.
     *
     * @throws RefusedException if the container there is no such chunk
     */
    public TorchFile.Entry elements(String key, DType dtype, Chunk chunk) throws IOException {
      TorchFile.Entry entry = Container.entryOf(container(key, chunk.place()), dtype, chunk);
      return new TorchFile.Entry(
          key + " at " + chunk.offsets(),
          chunk.place().offset() + entry.headerOffset(),
          chunk.place().offset() + entry.payloadOffset(),
          entry.bytes(),
          entry.crc32(),
          entry.flags());
    }

    /** The object under {@code key}, if there is one. */
    public Optional<PyObject> value(String key) throws IOException {
      Optional<DcpMetadata.Value> value = directory.metadata().value(key);
      if (value.isEmpty()) {
        return Optional.empty();
      }
      return Optional.of(container(key, value.get().place()).parse().root());
    }

    @Override
    public void close() throws IOException {
      for (RangedFile file : open.values()) {
        file.close();
      }
      open.clear();
    }
  }
}
