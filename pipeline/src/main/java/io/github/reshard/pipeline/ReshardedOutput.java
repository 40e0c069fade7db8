package io.github.reshard.pipeline;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.follow.Look;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.pipeline.storage.Stores;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.apache.beam.sdk.options.PipelineOptions;

/** An output directory, and whether what is in it is what a plan would write. */
final class ReshardedOutput {
  /** What is there. */
  enum State {
    /** Neither the tag nor another checkpoint that a load would take. */
    MISSING,
    /** The tag as this plan writes it, and {@code latest} names it. */
    CURRENT,
    /** The tag as this program made it from another source or for another size. */
    OUTDATED,
    /** Something that another program wrote, such as the run that went on from it. */
    FOREIGN,
    /** Not the same from one look to the next: another run is publishing. */
    CHANGING
  }

  /** What is said of what this job published and {@link #isMade} does not find. */
  static final String DAMAGED =
      "what this job published there is not as it was written: a file is missing, has another size"
          + " or is newer. Something else writes there; remove it and run again.";

  private static final ObjectMapper JSON = new ObjectMapper();

  private final String output;
  private final SourceStore store;

  ReshardedOutput(String output, PipelineOptions options) {
    this.output = Stores.directory(output);
    this.store = Stores.source(output, options);
  }

  /** What is there of what {@code job} would write. */
  State state(Job job, boolean trustMasters) throws IOException {
    try {
      return look(job, trustMasters);
    } catch (RefusedException | NoSuchFileException e) {
      // A file was listed and is another one, or gone, when it is opened.
      return State.CHANGING;
    }
  }

  private State look(Job job, boolean trustMasters) throws IOException {
    ReshardPlan plan = job.plan();
    SourceStore.Listing top = list(output);
    Optional<String> latest = ResumeInput.latest(store, top);
    String tag = plan.tag();
    if (latest.isPresent() && !latest.get().equals(tag) && !isMade(latest.get())) {
      return State.FOREIGN;
    }
    SourceStore.Listing inTag = tag.isEmpty() ? top : list(directory(tag));
    if (inTag.files().isEmpty() && inTag.directories().isEmpty()) {
      return State.MISSING;
    }
    if (!isMade(tag)) {
      return State.FOREIGN;
    }
    Optional<JsonNode> found = manifest(inTag);
    if (found.isEmpty()) {
      return State.CHANGING;
    }
    JsonNode manifest = found.get();
    boolean same =
        manifest.path("output").path("dataParallelRanks").asInt() == plan.targetWorldSize()
            && manifest.path("output").path("form").asText().equals(job.form())
            && manifest.path("config").path("trustMasters").asBoolean() == trustMasters
            && files(manifest).equals(files(plan))
            && sources(manifest).equals(sources(plan));
    boolean named = tag.isEmpty() || latest.equals(Optional.of(tag));
    return same && named ? State.CURRENT : State.OUTDATED;
  }

  /**
   * Whether the tag stands here as it would be made of {@code look}, whatever {@code latest} says.
   *
   * @param ranks data-parallel ranks that will load it
   */
  boolean isMadeOf(Look look, String tag, int ranks, String form, boolean trustMasters)
      throws IOException {
    try {
      Optional<JsonNode> found = manifest(list(directory(tag)));
      if (found.isEmpty() || isHalfPublished(tag)) {
        return false;
      }
      JsonNode manifest = found.get();
      return manifest.path("output").path("dataParallelRanks").asInt() == ranks
          && manifest.path("output").path("form").asText().equals(form)
          && manifest.path("config").path("trustMasters").asBoolean() == trustMasters
          && isOf(look, inTag(look, manifest))
          && isMade(tag);
    } catch (RefusedException | NoSuchFileException e) {
      return false;
    }
  }

  /**
   * What the job that published the tag called that reshard; empty if it called it nothing, or died
   * meanwhile.
   */
  Optional<String> run(String tag) throws IOException {
    try {
      if (isHalfPublished(tag)) {
        return Optional.empty();
      }
      return manifest(list(directory(tag)))
          .map(manifest -> manifest.path("run").asText())
          .filter(run -> !run.isEmpty());
    } catch (RefusedException | NoSuchFileException e) {
      return Optional.empty();
    }
  }

  /** Of how many parameters the masters were trusted when the tag was made. */
  int disagreed(String tag) throws IOException {
    return manifest(list(directory(tag)))
        .map(found -> found.path("proofs").path("weights").path("disagreed").size())
        .orElse(0);
  }

  private boolean isHalfPublished(String tag) throws IOException {
    return list(output).files().stream()
        .anyMatch(file -> file.name().equals(Leftovers.name(tag, "publishing")));
  }

  /**
   * Whether {@code sources} are files of the tag as they are now, and all files of ranks.
   *
   * @param sources bytes and version by path in the tag
   */
  private static boolean isOf(Look look, Map<String, String> sources) {
    Map<String, String> now = new TreeMap<>();
    Stream.concat(look.files().stream(), look.deeper().stream())
        .forEach(
            file ->
                now.put(
                    pathIn(look, file.path()).orElse(file.path()),
                    file.bytes() + " " + file.version()));
    return now.entrySet().containsAll(sources.entrySet())
        && look.files().stream()
            .map(FileStat::name)
            .filter(CheckpointFiles::isTagFile)
            .allMatch(sources::containsKey);
  }

  /** Bytes and version by path in the tag, of the source that a manifest tells. */
  private static Map<String, String> inTag(Look look, JsonNode manifest) {
    Map<String, String> files = new TreeMap<>();
    for (JsonNode file : manifest.path("source").path("files")) {
      pathIn(look, file.path("path").asText())
          .ifPresent(
              path ->
                  files.put(
                      path, file.path("bytes").asText() + " " + file.path("version").asText()));
    }
    return files;
  }

  /** A path behind the tag's own, on whatever way the tag was reached. */
  private static Optional<String> pathIn(Look look, String path) {
    String tag = "/" + look.saved().tag() + "/";
    int at = path.lastIndexOf(tag);
    return at < 0 ? Optional.empty() : Optional.of(path.substring(at + tag.length()));
  }

  /** Whether this program made the tag, and all of it is there and as it was written. */
  boolean isMade(String tag) throws IOException {
    SourceStore.Listing inTag = list(directory(tag));
    Optional<JsonNode> manifest = manifest(inTag);
    if (manifest.isEmpty()) {
      return false;
    }
    // Where nobody says when anything was written, nothing is after anything.
    Instant made =
        inTag.files().stream()
            .filter(ReshardedOutput::isManifest)
            .findFirst()
            .map(FileStat::written)
            .orElse(Instant.MAX);
    Map<String, Map<String, FileStat>> listed = new HashMap<>();
    for (JsonNode file : manifest.get().path("output").path("files")) {
      String path = file.path("path").asText();
      int slash = path.lastIndexOf('/');
      String parent = slash < 0 ? "" : path.substring(0, slash);
      // What lies beside the tag is of all tags, and the last one's.
      if (!tag.isEmpty() && !path.startsWith(tag + "/")) {
        continue;
      }
      if (!listed.containsKey(parent)) {
        Map<String, FileStat> byName = new HashMap<>();
        list(directory(parent)).files().forEach(found -> byName.put(found.name(), found));
        listed.put(parent, byName);
      }
      FileStat found = listed.get(parent).get(path.substring(slash + 1));
      if (found == null
          || found.bytes() != file.path("bytes").asLong()
          || found.written().isAfter(made)) {
        return false;
      }
    }
    return true;
  }

  private String directory(String relative) {
    String at = output;
    for (String step : relative.isEmpty() ? new String[0] : relative.split("/")) {
      at = store.child(at, step);
    }
    return at;
  }

  private SourceStore.Listing list(String directory) throws IOException {
    try {
      return store.list(directory);
    } catch (NoSuchFileException | FileNotFoundException | NotDirectoryException e) {
      return new SourceStore.Listing(List.of(), List.of());
    }
  }

  private static boolean isManifest(FileStat file) {
    return file.name().equals(CheckpointFiles.MANIFEST);
  }

  private Optional<JsonNode> manifest(SourceStore.Listing inTag) throws IOException {
    Optional<FileStat> file =
        inTag.files().stream().filter(ReshardedOutput::isManifest).findFirst();
    if (file.isEmpty()) {
      return Optional.empty();
    }
    try {
      return Optional.of(JSON.readTree(SmallFile.text(store, file.get())));
    } catch (JsonProcessingException e) {
      // Not as this program writes it.
      return Optional.empty();
    }
  }

  /** Bytes by path. */
  private static Map<String, Long> files(JsonNode manifest) {
    Map<String, Long> files = new TreeMap<>();
    for (JsonNode file : manifest.path("output").path("files")) {
      files.put(file.path("path").asText(), file.path("bytes").asLong());
    }
    return files;
  }

  private static Map<String, Long> files(ReshardPlan plan) {
    Map<String, Long> files = new TreeMap<>();
    plan.targets().forEach(file -> files.put(file.path(), file.bytes()));
    return files;
  }

  /** Bytes and version by path, of whatever directory the files lie in. */
  private static Map<String, String> sources(JsonNode manifest) {
    Map<String, String> files = new TreeMap<>();
    for (JsonNode file : manifest.path("source").path("files")) {
      files.put(
          file.path("path").asText(),
          file.path("bytes").asText() + " " + file.path("version").asText());
    }
    return relative(files);
  }

  private static Map<String, String> sources(ReshardPlan plan) {
    Map<String, String> files = new TreeMap<>();
    for (SourceFile file : plan.sources()) {
      files.put(file.stat().path(), file.stat().bytes() + " " + file.stat().version());
    }
    return relative(files);
  }

  /** Without the directories that all paths have: the same files may be reached in two ways. */
  private static Map<String, String> relative(Map<String, String> files) {
    List<String> paths = new ArrayList<>(files.keySet());
    String common = paths.isEmpty() ? "" : paths.get(0);
    for (String path : paths) {
      while (!path.startsWith(common) || !(common.isEmpty() || common.endsWith("/"))) {
        common = common.substring(0, common.lastIndexOf('/', common.length() - 2) + 1);
      }
    }
    Map<String, String> relative = new TreeMap<>();
    for (Map.Entry<String, String> file : files.entrySet()) {
      relative.put(file.getKey().substring(common.length()), file.getValue());
    }
    return relative;
  }
}
