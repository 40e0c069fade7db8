package io.github.reshard.pipeline;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.github.reshard.checkpoint.follow.Look;
import io.github.reshard.checkpoint.follow.SavedTag;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.pipeline.storage.Stores;
import io.github.reshard.transforms.Manifest;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Instant;
import java.util.Comparator;
import java.util.List;
import java.util.Optional;
import org.apache.beam.sdk.options.PipelineOptions;

/**
 * {@code OUT/refused/TAG.json}: why a checkpoint that was followed was refused, with the message of
 * the main job, and which files that was said of.
 */
final class RefusedFiles {
  private static final ObjectMapper JSON = new ObjectMapper();

  private final String output;
  private final PipelineOptions options;

  RefusedFiles(String output, PipelineOptions options) {
    this.output = output;
    this.options = options;
  }

  private static String path(SavedTag saved) {
    return "refused/" + saved + ".json";
  }

  /** Writes it down. */
  void put(Look look, String message) throws IOException {
    ObjectNode root = JSON.createObjectNode();
    root.put("checkpoint", look.saved().toString());
    root.put("message", message);
    root.put("at", Instant.now().toString());
    root.put("version", Manifest.toolVersion());
    root.set("files", files(look));
    try {
      Stores.put(
          output,
          path(look.saved()),
          JSON.writerWithDefaultPrettyPrinter().writeValueAsBytes(root),
          options);
    } catch (JsonProcessingException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static ArrayNode files(Look look) {
    ArrayNode files = JSON.createArrayNode();
    List<FileStat> sorted =
        look.all().stream().sorted(Comparator.comparing(FileStat::path)).toList();
    for (FileStat file : sorted) {
      files
          .addObject()
          .put("path", file.path())
          .put("bytes", file.bytes())
          .put("version", file.version());
    }
    return files;
  }

  /** Why this version of the program refused what {@code look} shows, if it did so before. */
  Optional<String> messageOf(Look look) throws IOException {
    Optional<byte[]> found = Stores.get(output, path(look.saved()), options);
    if (found.isEmpty()) {
      return Optional.empty();
    }
    JsonNode root;
    try {
      root = JSON.readTree(found.get());
    } catch (JsonProcessingException e) {
      return Optional.empty(); // not as this program writes it
    }
    boolean same =
        root.path("version").asText().equals(Manifest.toolVersion())
            && root.path("files").toString().equals(files(look).toString());
    return same ? Optional.of(root.path("message").asText()) : Optional.empty();
  }

  /** Removes it, if it is there: the checkpoint is another one. */
  void delete(SavedTag saved) throws IOException {
    Stores.delete(output, path(saved), options);
  }
}
