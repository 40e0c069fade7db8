package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.storage.JobDirectory;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.checkpoint.storage.LocalJobDirectory;
import io.github.reshard.checkpoint.storage.LocalShardsStore;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.LocalTargetStore;
import io.github.reshard.checkpoint.storage.Publishing;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import org.apache.beam.sdk.io.FileSystems;
import org.apache.beam.sdk.options.PipelineOptions;

/**
 * Chooses where a checkpoint lies by what its location looks like: {@code gs://BUCKET/PATH}, any
 * other {@code SCHEME://} that Beam has a file system for, or a local path. Nothing of a cloud is
 * loaded for local paths.
 */
public final class Stores {
  private static final String GOOGLE = "gs";
  private static final String GOOGLE_CLIENT = "com.google.cloud.storage.Storage";

  private Stores() {}

  /** The scheme, or an empty text for a local path; {@code file://} is one. */
  private static String scheme(String location) {
    int colon = location.indexOf("://");
    String scheme = colon < 1 ? "" : location.substring(0, colon);
    return scheme.equals("file") || !scheme.matches("[a-zA-Z][a-zA-Z0-9+.-]*") ? "" : scheme;
  }

  /** Whether {@code location} is a path of this machine. */
  public static boolean isLocal(String location) {
    return scheme(location).isEmpty();
  }

  /** Whether {@code inner} is {@code outer} or lies in it, links followed. */
  public static boolean isWithin(String inner, String outer) {
    if (isLocal(inner) != isLocal(outer)) {
      return false;
    }
    if (isLocal(inner)) {
      return directories(outer).stream()
          .anyMatch(each -> localPath(inner).startsWith(localPath(each)));
    }
    return (ObjectName.parse(inner) + "/").startsWith(ObjectName.parse(outer) + "/");
  }

  /** Whether {@code location} is a pattern of directories, as of the disks of several nodes. */
  public static boolean isSeveral(String location) {
    return isLocal(location) && NodeDisks.isPattern(local(location));
  }

  /** The directories that a path of this machine stands for: itself, if it is no pattern. */
  public static List<String> directories(String location) {
    if (!isSeveral(location)) {
      return List.of(directory(location));
    }
    try {
      return NodeDisks.directories(directory(location)).stream().map(Path::toString).toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** The real path of what is there, and below it what is not there yet. */
  private static Path localPath(String location) {
    Path path = Path.of(local(location)).toAbsolutePath().normalize();
    Path there = path;
    while (!Files.exists(there)) {
      there = there.getParent();
    }
    try {
      return there.toRealPath().resolve(there.relativize(path));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static String local(String location) {
    return location.startsWith("file://") ? location.substring("file://".length()) : location;
  }

  /**
   * How to read the checkpoint in {@code input}; directories are given to it as {@link #directory}
   * says.
   *
   * @param options of the pipeline, for Beam's file systems
   * @throws RefusedException if nothing here knows the scheme
   */
  public static SourceStore source(String input, PipelineOptions options) {
    return switch (scheme(input)) {
      case "" -> isSeveral(input) ? new NodeDisks() : new LocalSourceStore();
      case GOOGLE -> {
        requireGoogleClient(input);
        yield Google.source();
      }
      default -> {
        requireFileSystem(input, options);
        yield new BeamSourceStore();
      }
    };
  }

  /** {@code location} as a store takes it: without {@code file://} and slashes at its end. */
  public static String directory(String location) {
    if (!isLocal(location)) {
      return ObjectName.parse(location).toString();
    }
    String path = local(location);
    int end = path.length();
    while (end > 1 && path.charAt(end - 1) == '/') {
      end--;
    }
    return path.substring(0, end);
  }

  /**
   * How to write the checkpoint {@code tag} into {@code output}.
   *
   * @param latest the file that then names the tag, {@link TargetStore#LATEST} or {@link
   *     TargetStore#LATEST_UNIVERSAL}
   * @param options of the pipeline, for Beam's file systems
   * @throws RefusedException if nothing here knows the scheme
   */
  public static TargetStore target(
      String output, String tag, String latest, Publishing publishing, PipelineOptions options) {
    if (isLocal(output)) {
      return new LocalTargetStore(local(output), tag, latest, publishing);
    }
    return new ObjectTargetStore(
        objects(output, options), ObjectName.parse(output).name(), tag, latest, publishing);
  }

  /**
   * How to write files without a tag, which are {@code output} as a whole.
   *
   * @param replaceable the names of files that may be replaced
   * @param overwrite whether what is there is replaced
   * @param options of the pipeline, for Beam's file systems
   * @throws io.github.reshard.checkpoint.OutputException if it is a bucket itself
   */
  public static TargetStore whole(
      String output, Set<String> replaceable, boolean overwrite, PipelineOptions options) {
    return isLocal(output)
        ? new LocalShardsStore(
            directory(output), replaceable, CheckpointFiles.MANIFEST + "*", overwrite)
        : new ExportedObjects(
            objects(output, options), ObjectName.parse(output).name(), replaceable, overwrite);
  }

  /**
   * Removes what runs that died left in {@code output}; no run may be under way.
   *
   * @param options of the pipeline, for Beam's file systems
   * @throws io.github.reshard.checkpoint.OutputException if one died while it published, which only
   *     running it again repairs
   */
  public static List<Leftovers.Removed> removeLeftovers(String output, PipelineOptions options)
      throws IOException {
    return removeLeftovers(output, Set.of(), options);
  }

  /** The same, but for what has one of the names {@code spared}. */
  public static List<Leftovers.Removed> removeLeftovers(
      String output, Set<String> spared, PipelineOptions options) throws IOException {
    return isLocal(output)
        ? Leftovers.remove(local(output), spared)
        : BucketLeftovers.remove(objects(output, options), ObjectName.parse(output).name(), spared);
  }

  /**
   * By what the processes of a job that writes into {@code output} tell one another how it stands.
   *
   * @param options of the pipeline, for Beam's file systems
   */
  public static JobDirectory jobDirectory(String output, PipelineOptions options) {
    return isLocal(output)
        ? new LocalJobDirectory(directory(output))
        : new BucketJobDirectory(objects(output, options), ObjectName.parse(output).name());
  }

  /**
   * Writes a small file beside the checkpoints of an output; it appears whole.
   *
   * @param path in the output, with slashes
   * @param options of the pipeline, for Beam's file systems
   * @throws OutputException if it cannot be written
   */
  public static void put(String output, String path, byte[] content, PipelineOptions options)
      throws IOException {
    if (!isLocal(output)) {
      objects(output, options).put(objectName(output, path), content);
      return;
    }
    Path file = Path.of(directory(output), path);
    Path unfinished = file.resolveSibling("." + file.getFileName());
    try {
      Files.createDirectories(file.getParent());
      Files.write(unfinished, content);
      Files.move(
          unfinished, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    } catch (IOException e) {
      throw new OutputException(file.toString(), "cannot be written: " + e, e);
    }
  }

  /** What {@link #put} wrote; empty if it is not there. */
  public static Optional<byte[]> get(String output, String path, PipelineOptions options)
      throws IOException {
    if (isLocal(output)) {
      try {
        return Optional.of(Files.readAllBytes(Path.of(directory(output), path)));
      } catch (NoSuchFileException e) {
        return Optional.empty();
      }
    }
    ObjectStore store = objects(output, options);
    Optional<ObjectStore.Found> found = store.find(objectName(output, path));
    return found.isEmpty() ? Optional.empty() : Optional.of(store.read(found.get()));
  }

  /** Removes what {@link #put} wrote, if it is there. */
  public static void delete(String output, String path, PipelineOptions options)
      throws IOException {
    if (isLocal(output)) {
      Files.deleteIfExists(Path.of(directory(output), path));
      return;
    }
    ObjectStore store = objects(output, options);
    Optional<ObjectStore.Found> found = store.find(objectName(output, path));
    if (found.isPresent()) {
      store.delete(List.of(found.get()));
    }
  }

  private static String objectName(String output, String path) {
    String directory = ObjectName.parse(output).name();
    return directory.isEmpty() ? path : directory + "/" + path;
  }

  private static ObjectStore objects(String output, PipelineOptions options) {
    ObjectName at = ObjectName.parse(output);
    if (at.scheme().equals(GOOGLE)) {
      requireGoogleClient(output);
      return Google.objects(at.bucket());
    }
    requireFileSystem(output, options);
    return new BeamObjectStore(at.scheme() + "://" + at.bucket());
  }

  /**
   * Removes a published checkpoint: out of sight at once on a local disk, then bit by bit. What a
   * crash leaves is removed with the leftovers.
   *
   * @param name of its directory in {@code output}
   * @throws OutputException if it cannot be removed
   */
  public static void removePublished(String output, String name, PipelineOptions options)
      throws IOException {
    if (isLocal(output)) {
      LocalTargetStore.removePublished(Path.of(directory(output)), name);
    } else {
      String directory = ObjectName.parse(output).name();
      BucketRemoval.remove(
          objects(output, options), directory.isEmpty() ? "" : directory + "/", name);
    }
  }

  /** Whether {@code output} holds the tag, as far as this account can see. */
  public static boolean holds(String output, String tag, PipelineOptions options)
      throws IOException {
    try {
      return source(output, options).list(directory(output)).directories().contains(tag);
    } catch (NoSuchFileException | NotDirectoryException e) {
      return false;
    }
  }

  private static void requireGoogleClient(String location) {
    try {
      Class.forName(GOOGLE_CLIENT, false, Stores.class.getClassLoader());
    } catch (ClassNotFoundException e) {
      throw new RefusedException(location, MISSING, e);
    }
  }

  private static void requireFileSystem(String location, PipelineOptions options) {
    FileSystems.setDefaultPipelineOptions(options);
    try {
      FileSystems.matchNewResource(location, true);
    } catch (IllegalArgumentException e) {
      throw new RefusedException(location, MISSING, e);
    }
  }

  private static final String MISSING =
      "this build has no client for it. scripts/reshard makes one that has when it sees gs:// or"
          + " s3://; with Maven, add -Dbuckets. For other stores put Beam's file system for it on"
          + " the classpath.";

  /** In a class of its own, so that Google's classes are looked for only here. */
  private static final class Google {
    static SourceStore source() {
      return new GcsSourceStore(GcsClient.endpoint());
    }

    static ObjectStore objects(String bucket) {
      return new GcsObjectStore(GcsClient.endpoint(), bucket);
    }
  }
}
