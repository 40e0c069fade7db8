package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.NonZeroElements;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;

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

  /** Where a chunk's elements, of {@code width} bytes each, begin. */
  private record At(int file, long offset, int width) {}

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
      places.add(new At(file, entry.payloadOffset(), tensor.dtype().bytes()));
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

  /** What a file holds: where, how many bytes, with which CRC-32. */
  private record Content(long offset, long bytes, int crc32) {}

  /**
   * Looks for a data file that lies there under two names. What the optimizer has gathered from
   * gradients is never alike in two files; weights that nothing has trained yet may be. (Two whole
   * files that were exchanged cannot be told where all their containers lie at the same bytes:
   * PyTorch calls each of these {@code archive}.)
   *
   * @param states keys of the optimizer's states
   * @return what is proven; empty if there is one file, which has no other
   * @throws RefusedException if one is a copy of another one
   */
  public Optional<Evidence> refuseCopies(SourceStore store, Set<String> states) throws IOException {
    Map<List<Content>, Integer> seen = new HashMap<>();
    Set<String> unproven = new TreeSet<>();
    List<SourceFile> sources = files();
    for (int f = 0; f < sources.size(); f++) {
      List<Content> contents =
          sources.get(f).entries().stream()
              .map(entry -> new Content(entry.payloadOffset(), entry.bytes(), entry.crc32()))
              .toList();
      Integer other = seen.putIfAbsent(contents, f);
      if (!sources.get(f).hasCrcs()) {
        unproven.add(files.get(f).name());
      } else if (other != null) {
        if (isTrained(store, f, states)) {
          throw new RefusedException(
              files.get(f).path(),
              "holds the same bytes as %s. One of them is a copy, and the data of the other is missing."
                  .formatted(files.get(other).name()));
        }
        unproven.add(files.get(f).name());
        unproven.add(files.get(other).name());
      }
    }
    return files.size() < 2
        ? Optional.empty()
        : Optional.of(
            new Evidence(
                "no data file is a copy of another",
                "checksums of its tensors",
                files.size() - unproven.size(),
                List.copyOf(unproven),
                unproven.isEmpty()
                    ? ""
                    : "they were saved without checksums, or nothing in them is trained yet"));
  }

  /**
   * How the parameters of {@code model} lie in chunks.
   *
   * @param partitions gets where these begin
   * @throws RefusedException if the states of a parameter are not cut alike
   */
  DcpLayout layout(PartitionedModel model, DcpKeys keys, Map<Partition, Address> partitions) {
    List<List<Box>> boxes = new ArrayList<>();
    for (int p = 0; p < model.parameters().size(); p++) {
      List<Box> ofParameter = null;
      for (String state : model.statesOf(p).keySet()) {
        String key = keys.weightOrState(model.parameters().get(p).name(), state);
        List<Chunk> chunks = keys.requireTensor(key).chunks();
        List<Box> own = chunks.stream().map(c -> new Box(c.offsets(), c.sizes())).toList();
        if (ofParameter != null && !ofParameter.equals(own)) {
          throw new RefusedException(
              keys.where(),
              "'%s' is cut into %s, another state of the same parameter into %s."
                  .formatted(key, own, ofParameter));
        }
        ofParameter = own;
        for (int c = 0; c < chunks.size(); c++) {
          partitions.put(new Partition(c, p, state), address(key, c));
        }
      }
      boxes.add(ofParameter == null ? List.of() : ofParameter);
    }
    return new DcpLayout(model.parameters(), boxes);
  }

  private boolean isTrained(SourceStore store, int file, Set<String> states) throws IOException {
    for (String state : states) {
      for (At at : chunks.getOrDefault(state, List.of())) {
        if (at.file() == file) {
          TorchFile.Entry entry = entries.get(file).get(at.offset());
          long end = at.offset() + entry.bytes();
          if (NonZeroElements.different(store, files.get(file), at.offset(), end, at.width(), 2)
              > 1) {
            return true;
          }
        }
      }
    }
    return false;
  }
}
