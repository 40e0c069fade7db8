package io.github.reshard.pipeline;

import com.google.cloud.NoCredentials;
import com.google.cloud.storage.Blob;
import com.google.cloud.storage.BlobInfo;
import com.google.cloud.storage.BucketInfo;
import com.google.cloud.storage.Storage;
import com.google.cloud.storage.StorageOptions;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;

/** A bucket as a tree of files, through Google's client and past any proxy. */
final class GcsTree {
  private final Storage storage;
  private final String bucket;

  GcsTree(URI endpoint, String bucket) {
    this.bucket = bucket;
    storage =
        StorageOptions.http()
            .setHost(endpoint.toString())
            .setProjectId("emulated")
            .setCredentials(NoCredentials.getInstance())
            .build()
            .getService();
    if (storage.get(bucket) == null) {
      storage.create(BucketInfo.of(bucket));
    }
  }

  void upload(Path directory, String prefix) throws IOException {
    for (Map.Entry<String, byte[]> file : local(directory).entrySet()) {
      write(prefix + "/" + file.getKey(), file.getValue());
    }
  }

  void write(String name, byte[] content) {
    storage.create(BlobInfo.newBuilder(bucket, name).build(), content);
  }

  void delete(String name) {
    storage.delete(bucket, name);
  }

  /** Contents by name below {@code directory}. */
  Map<String, byte[]> under(String directory) {
    String prefix = directory.isEmpty() ? "" : directory + "/";
    Map<String, byte[]> all = new TreeMap<>();
    for (Blob blob : storage.list(bucket, Storage.BlobListOption.prefix(prefix)).iterateAll()) {
      all.put(blob.getName().substring(prefix.length()), blob.getContent());
    }
    return all;
  }

  /** The same of a local directory. */
  static Map<String, byte[]> local(Path directory) throws IOException {
    Map<String, byte[]> all = new TreeMap<>();
    try (Stream<Path> files = Files.walk(directory)) {
      for (Path file : files.filter(Files::isRegularFile).toList()) {
        all.put(directory.relativize(file).toString(), Files.readAllBytes(file));
      }
    }
    return all;
  }
}
