package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Item;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * All that was saved at one step: one directory, or with Accelerate one for the model and one for
 * the optimizer.
 *
 * @param path what the user named
 * @param directories those that hold keys, each of which is in one of them only
 */
public record DcpCheckpoint(String path, List<DcpDirectory> directories) {
  private static final List<String> OF_ACCELERATE =
      List.of(DcpDialect.ACCELERATE.modelDirectory(), DcpDialect.ACCELERATE.optimizerDirectory());

  public DcpCheckpoint {
    directories = List.copyOf(directories);
  }

  /**
   * What lies at {@code path}, if it is a distributed checkpoint, or in the directory beside which
   * {@code latest_dcp} stands there and no pointer of DeepSpeed's.
   *
   * @throws RefusedException if it is one that is not whole or not understood
   */
  public static Optional<DcpCheckpoint> find(SourceStore store, String path) throws IOException {
    Optional<DcpCheckpoint> here = at(store, path);
    if (here.isPresent()) {
      return here;
    }
    SourceStore.Listing listing = store.list(path);
    Map<String, FileStat> pointers = new HashMap<>();
    for (FileStat file : listing.files()) {
      if (TargetStore.POINTERS.contains(file.name())) {
        pointers.put(file.name(), file);
      }
    }
    if (!pointers.keySet().equals(Set.of(TargetStore.LATEST_DCP))) {
      return Optional.empty();
    }
    FileStat pointer = pointers.get(TargetStore.LATEST_DCP);
    long most = listing.directories().stream().mapToLong(String::length).max().orElse(0);
    String tag =
        pointer.bytes() > 4 * most + 1
            ? ""
            : StandardCharsets.UTF_8
                .decode(store.read(pointer, 0, pointer.bytes()))
                .toString()
                .strip();
    if (!listing.directories().contains(tag)) {
      throw new RefusedException(
          pointer.path(),
          "expected the name of one of the directories beside it, %s, found another text. Name one with --tag."
              .formatted(listing.directories()));
    }
    return at(store, store.child(path, tag));
  }

  private static Optional<DcpCheckpoint> at(SourceStore store, String path) throws IOException {
    Optional<DcpDirectory> here = DcpDirectory.find(store, path);
    if (here.isPresent()) {
      return Optional.of(new DcpCheckpoint(path, List.of(here.get())));
    }
    List<String> below = store.list(path).directories();
    List<DcpDirectory> directories = new ArrayList<>();
    for (String name : OF_ACCELERATE) {
      if (below.contains(name)) {
        DcpDirectory.find(store, store.child(path, name)).ifPresent(directories::add);
      }
    }
    return directories.isEmpty()
        ? Optional.empty()
        : Optional.of(new DcpCheckpoint(path, directories));
  }

  /** Every key with what it names. */
  public Map<String, Item> items() {
    Map<String, Item> items = new LinkedHashMap<>();
    for (DcpDirectory directory : directories) {
      for (Map.Entry<String, Item> item : directory.metadata().items().entrySet()) {
        if (items.put(item.getKey(), item.getValue()) != null) {
          throw new RefusedException(
              directory.path(),
              "has the key '%s', and another directory of the checkpoint has it too."
                  .formatted(item.getKey()));
        }
      }
    }
    return items;
  }

  /** The directory with {@code key}, which is in one. */
  DcpDirectory directoryOf(String key) {
    return directories.stream()
        .filter(directory -> directory.metadata().items().containsKey(key))
        .findFirst()
        .orElseThrow(() -> new IllegalArgumentException(key));
  }

  /** The objects under {@code keys}, of those that are there. */
  public Map<String, PyObject> values(SourceStore store, Set<String> keys) throws IOException {
    Map<String, PyObject> values = new LinkedHashMap<>();
    for (DcpDirectory directory : directories) {
      try (DcpDirectory.Reading reading = directory.open(store)) {
        for (String key : keys) {
          Optional<PyObject> value = reading.value(key);
          if (value.isPresent()) {
            values.put(key, value.get());
          }
        }
      }
    }
    return values;
  }
}
