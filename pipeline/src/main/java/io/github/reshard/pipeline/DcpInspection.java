package io.github.reshard.pipeline;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpCheckpoint;
import io.github.reshard.checkpoint.dcp.DcpDirectory;
import io.github.reshard.checkpoint.dcp.DcpMetadata;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Step;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.planner.DcpCheck;
import io.github.reshard.checkpoint.planner.Found;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.pipeline.storage.Stores;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;

/**
 * What a distributed checkpoint of PyTorch holds, from its {@code .metadata} alone.
 *
 * @param name the directory
 * @param parts what its keys begin with, and what lies under that
 * @param mostChunks of any tensor
 * @param files data files and {@code .metadata}
 * @param bytes of all of them
 */
public record DcpInspection(String name, List<Part> parts, int mostChunks, int files, long bytes) {
  private static final ObjectMapper JSON =
      new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT);

  /**
   * Keys that begin alike.
   *
   * @param word what they begin with
   * @param tensors how many tensors
   * @param elements of all of these
   * @param elementsByType of all of these, by the type of an element
   * @param objects how many objects that are no tensors
   */
  public record Part(
      String word, int tensors, long elements, Map<String, Long> elementsByType, int objects) {}

  /**
   * Looks at {@code --input}, if it is a distributed checkpoint.
   *
   * @throws RefusedException if it is one that is not whole or not understood
   */
  public static Optional<DcpInspection> of(CommandOptions options) {
    try {
      Optional<DcpCheckpoint> dcp = at(options.getInput(), options.getTag(), options);
      if (dcp.isPresent() && options.getHtml() != null) {
        throw new RefusedException(
            options.getInput(),
            "--html draws the ranks of a checkpoint of DeepSpeed; a distributed checkpoint has"
                + " none.");
      }
      return dcp.map(DcpInspection::of);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  static DcpInspection of(DcpCheckpoint dcp) {
    Map<String, List<DcpMetadata.Item>> byWord = new LinkedHashMap<>();
    int mostChunks = 0;
    int files = 0;
    long bytes = 0;
    for (DcpDirectory directory : dcp.directories()) {
      files += directory.files().size() + 1;
      bytes += directory.metadataFile().bytes();
      bytes += directory.files().values().stream().mapToLong(file -> file.bytes()).sum();
      for (Map.Entry<String, DcpMetadata.Item> item : directory.metadata().items().entrySet()) {
        byWord
            .computeIfAbsent(word(item.getKey(), directory.metadata()), any -> new ArrayList<>())
            .add(item.getValue());
        if (item.getValue() instanceof DcpMetadata.Tensor tensor) {
          mostChunks = Math.max(mostChunks, tensor.chunks().size());
        }
      }
    }
    List<Part> parts = new ArrayList<>();
    byWord.forEach((word, items) -> parts.add(part(word, items)));
    return new DcpInspection(dcp.path(), List.copyOf(parts), mostChunks, files, bytes);
  }

  /** The first step of the path of a key; of an optimizer's also whether it is state or options. */
  private static String word(String key, DcpMetadata metadata) {
    List<Step> path = metadata.paths().getOrDefault(key, Step.keys(key.split("\\.", 2)));
    String first = text(path.get(0));
    if (path.size() == 1) {
      return "";
    }
    String second = text(path.get(1));
    for (String of : List.of("state", "param_groups")) {
      if (second.equals(of) || second.startsWith(of + ".")) {
        return first + "." + of;
      }
    }
    return first;
  }

  private static String text(Step step) {
    return step instanceof Step.Key key ? key.name() : "";
  }

  private static Part part(String word, List<DcpMetadata.Item> items) {
    int tensors = 0;
    long elements = 0;
    Map<String, Long> byType = new TreeMap<>();
    for (DcpMetadata.Item item : items) {
      if (item instanceof DcpMetadata.Tensor tensor) {
        tensors++;
        long of = tensor.chunks().stream().mapToLong(Chunk::elements).sum();
        elements += of;
        byType.merge(tensor.dtype().torchName(), of, Long::sum);
      }
    }
    return new Part(word, tensors, elements, byType, items.size() - tensors);
  }

  /** For machines. */
  public String json() {
    try {
      return JSON.writeValueAsString(this);
    } catch (JsonProcessingException e) {
      throw new UncheckedIOException(e);
    }
  }

  /**
   * The distributed checkpoint that a location means, if it means one.
   *
   * @param tag a directory in it, or null
   */
  static Optional<DcpCheckpoint> at(String location, String tag, ReshardOptions options)
      throws IOException {
    SourceStore store = Stores.source(location, options);
    String directory = Stores.directory(location);
    try {
      return DcpCheckpoint.find(store, tag == null ? directory : store.child(directory, tag));
    } catch (NoSuchFileException | FileNotFoundException | NotDirectoryException e) {
      return Optional.empty(); // what else it may mean is found out by whoever asks
    }
  }

  /** A distributed checkpoint as the source of a job. */
  static Source source(DcpCheckpoint dcp, SourceStore store) {
    Found found =
        new Found(
            store,
            CheckpointFiles.none(dcp.path()),
            dcp.path(),
            ranks -> {
              throw new RefusedException(
                  dcp.path(), "a distributed checkpoint does not say all that DeepSpeed needs.");
            },
            stage -> {
              throw new IllegalStateException("nothing is written as " + dcp.path());
            },
            Optional.empty(),
            Optional.empty());
    return new Source(dcp.path(), found, UserHints.NONE);
  }

  /**
   * The proof of the distributed checkpoint that is {@code --input}, if it is one.
   *
   * @throws RefusedException if it is one that is not whole or not understood
   */
  static Optional<Job> check(ReshardOptions options) throws IOException {
    Optional<DcpCheckpoint> dcp = at(options.getInput(), options.getTag(), options);
    if (dcp.isEmpty()) {
      return Optional.empty();
    }
    SourceStore store = Stores.source(options.getInput(), options);
    return Optional.of(
        new Job(
            source(dcp.get(), store),
            DcpCheck.plan(store, dcp.get(), options.getPartBytes()),
            ReshardOptions.DCP,
            TargetStore.LATEST_DCP,
            Optional.empty()));
  }
}
