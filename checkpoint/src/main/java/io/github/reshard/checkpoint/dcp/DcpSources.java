package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * The data files of a distributed checkpoint as sources of a plan, with the entries of the tensors
 * that it needs. Two keys may name the same bytes, which are one entry.
 */
public final class DcpSources {
  private final int first;
  private final List<FileStat> files = new ArrayList<>();
  private final List<TreeMap<Long, TorchFile.Entry>> entries = new ArrayList<>();
  private final List<Map<Long, Integer>> indices = new ArrayList<>();
  private final Map<String, List<At>> chunks = new LinkedHashMap<>();

  /** Where a chunk's elements begin. */
  private record At(int file, long offset) {}

  private DcpSources(int first) {
    this.first = first;
  }

  /**
   * Reads the containers of tensors.
   *
   * @param keys of the tensors; each is there
   * @param first the index in the plan of the first data file
   * @throws RefusedException if a container does not hold what {@code .metadata} says
   */
  public static DcpSources read(
      SourceStore store, DcpCheckpoint checkpoint, Iterable<String> keys, int first)
      throws IOException {
    DcpSources sources = new DcpSources(first);
    Map<DcpDirectory, List<String>> byDirectory = new LinkedHashMap<>();
    for (String key : keys) {
      byDirectory.computeIfAbsent(checkpoint.directoryOf(key), any -> new ArrayList<>()).add(key);
    }
    for (Map.Entry<DcpDirectory, List<String>> directory : byDirectory.entrySet()) {
      try (DcpDirectory.Reading reading = directory.getKey().open(store)) {
        for (String key : directory.getValue()) {
          sources.add(directory.getKey(), reading, key);
        }
      }
    }
    sources.number();
    return sources;
  }

  private void number() {
    for (TreeMap<Long, TorchFile.Entry> ofFile : entries) {
      Map<Long, Integer> numbers = new HashMap<>();
      ofFile.keySet().forEach(offset -> numbers.put(offset, numbers.size()));
      indices.add(numbers);
    }
  }

  private void add(DcpDirectory directory, DcpDirectory.Reading reading, String key)
      throws IOException {
    if (chunks.containsKey(key)) {
      return;
    }
    DcpMetadata.Tensor tensor = directory.metadata().tensor(key).orElseThrow();
    List<At> places = new ArrayList<>();
    for (Chunk chunk : tensor.chunks()) {
      TorchFile.Entry entry = reading.elements(key, tensor.dtype(), chunk);
      int file = fileOf(directory.files().get(chunk.place().file()));
      TorchFile.Entry other = entries.get(file).putIfAbsent(entry.payloadOffset(), entry);
      if (other != null && other.bytes() != entry.bytes()) {
        throw new RefusedException(
            files.get(file).path(),
            "%s and %s begin at the same byte and have other lengths."
                .formatted(other.name(), entry.name()));
      }
      places.add(new At(file, entry.payloadOffset()));
    }
    chunks.put(key, places);
  }

  private int fileOf(FileStat stat) {
    int known = files.indexOf(stat);
    if (known < 0) {
      files.add(stat);
      entries.add(new TreeMap<>());
      known = files.size() - 1;
    }
    return known;
  }

  /** The data files, each with the entries of the tensors that were read. */
  public List<SourceFile> files() {
    List<SourceFile> sources = new ArrayList<>();
    for (int f = 0; f < files.size(); f++) {
      List<TorchFile.Entry> ofFile = List.copyOf(entries.get(f).values());
      sources.add(
          new SourceFile(
              files.get(f), ofFile, ofFile.stream().anyMatch(entry -> entry.crc32() != 0)));
    }
    return sources;
  }

  /** Where the elements of a chunk begin. */
  public Address address(String key, int chunk) {
    At at = chunks.get(key).get(chunk);
    return new Address(first + at.file(), indices.get(at.file()).get(at.offset()), at.offset());
  }

  /** What the container of a chunk says the CRC-32 of its elements is. */
  public int crc32(String key, int chunk) {
    At at = chunks.get(key).get(chunk);
    return entries.get(at.file()).get(at.offset()).crc32();
  }
}
