package io.github.reshard.pipeline;

import com.google.cloud.NoCredentials;
import com.google.cloud.storage.Blob;
import com.google.cloud.storage.BlobInfo;
import com.google.cloud.storage.Storage;
import com.google.cloud.storage.StorageOptions;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Stream;
import org.apache.beam.runners.direct.DirectOptions;

/**
 * Measures resharding from and to a bucket next to plain download and upload of the same bytes with
 * Google's client, as many files at once as there are threads. Arguments: a local checkpoint, the
 * target's data-parallel size, threads.
 */
final class BucketThroughput {
  private static final String BUCKET = "throughput";

  private BucketThroughput() {}

  public static void main(String[] args) throws Exception {
    Path source = Path.of(args[0]);
    int worldSize = Integer.parseInt(args[1]);
    int threads = Integer.parseInt(args[2]);
    String endpoint = Emulator.gcs().uri().toString();
    System.setProperty("reshard.gcs.endpoint", endpoint);
    new GcsTree(Emulator.gcs().uri(), BUCKET);
    Storage storage =
        StorageOptions.http()
            .setHost(endpoint)
            .setProjectId("emulated")
            .setCredentials(NoCredentials.getInstance())
            .build()
            .getService();
    List<Path> files;
    try (Stream<Path> all = Files.walk(source)) {
      files = all.filter(Files::isRegularFile).toList();
    }
    long bytes = 0;
    for (Path file : files) {
      bytes += Files.size(file);
    }
    for (int round = 1; round <= 3; round++) {
      report(
          "plain upload",
          bytes,
          () -> {
            inParallel(threads, files, file -> upload(storage, source, file));
            return null;
          });
      Path down = Files.createTempDirectory(source.toAbsolutePath().getParent(), "down");
      List<String> names = new ArrayList<>();
      storage
          .list(BUCKET, Storage.BlobListOption.prefix("in/"))
          .iterateAll()
          .forEach(b -> names.add(b.getName()));
      report(
          "plain download",
          bytes,
          () -> {
            inParallel(
                threads,
                names,
                name -> {
                  Blob blob = storage.get(BUCKET, name);
                  blob.downloadTo(down.resolve(name.replace('/', '_')));
                });
            return null;
          });
      delete(down);
      Path local = Files.createTempDirectory(source.toAbsolutePath().getParent(), "local");
      reshard("local to local", bytes, source.toString(), local.toString(), worldSize, threads);
      delete(local);
      reshard(
          "local to gs", bytes, source.toString(), "gs://" + BUCKET + "/up", worldSize, threads);
      reshard("gs to local", bytes, "gs://" + BUCKET + "/in", local.toString(), worldSize, threads);
      delete(local);
      reshard(
          "gs to gs",
          bytes,
          "gs://" + BUCKET + "/in",
          "gs://" + BUCKET + "/up",
          worldSize,
          threads);
    }
    System.exit(0);
  }

  private static void upload(Storage storage, Path source, Path file) throws IOException {
    storage.createFrom(BlobInfo.newBuilder(BUCKET, "in/" + source.relativize(file)).build(), file);
  }

  private static void reshard(
      String what, long bytes, String input, String output, int worldSize, int threads)
      throws Exception {
    ReshardOptions options = Resharding.options(Path.of("in"), Path.of("out"), worldSize);
    options.setInput(input);
    options.setOutput(output);
    options.setOverwrite(true);
    options.as(DirectOptions.class).setEnforceImmutability(false);
    options.as(DirectOptions.class).setEnforceEncodability(false);
    options.as(DirectOptions.class).setTargetParallelism(threads);
    report(what, bytes, () -> Resharding.run(options));
  }

  private static void report(String what, long bytes, Callable<Object> work) throws Exception {
    long begin = System.nanoTime();
    work.call();
    double seconds = (System.nanoTime() - begin) / 1e9;
    System.out.printf("%-16s %6.2f s %7.0f MiB/s%n", what, seconds, bytes / seconds / (1 << 20));
  }

  /** Something that is done with an element. */
  private interface Action<T> {
    void accept(T element) throws IOException;
  }

  private static <T> void inParallel(int threads, List<T> elements, Action<T> action)
      throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(threads);
    List<Future<?>> running = new ArrayList<>();
    for (T element : elements) {
      running.add(
          pool.submit(
              () -> {
                action.accept(element);
                return null;
              }));
    }
    for (Future<?> one : running) {
      one.get();
    }
    pool.shutdown();
  }

  private static void delete(Path directory) throws IOException {
    try (Stream<Path> all = Files.walk(directory)) {
      for (Path path : all.sorted(java.util.Comparator.reverseOrder()).toList()) {
        Files.delete(path);
      }
    }
  }
}
