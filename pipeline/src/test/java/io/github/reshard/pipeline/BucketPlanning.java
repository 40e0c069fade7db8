package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.pipeline.storage.Stores;
import java.io.IOException;
import java.nio.file.Path;

/**
 * Measures planning from a bucket that answers late, with headers read one after the other and as
 * they are. Arguments: a local checkpoint, the target's data-parallel size, milliseconds by which
 * each request is delayed.
 */
final class BucketPlanning {
  private static final String BUCKET = "planning";

  private BucketPlanning() {}

  private record OneAfterTheOther(SourceStore store) implements SourceStore {
    private static final long serialVersionUID = 1L;

    @Override
    public Listing list(String directory) throws IOException {
      return store.list(directory);
    }

    @Override
    public RangedFile open(FileStat file) throws IOException {
      return store.open(file);
    }

    @Override
    public String child(String directory, String name) {
      return store.child(directory, name);
    }
  }

  public static void main(String[] args) throws IOException {
    new GcsTree(Emulator.gcs().uri(), BUCKET).upload(Path.of(args[0]), "in");
    long delay = Long.parseLong(args[2]);
    try (FaultyProxy proxy = new FaultyProxy(Emulator.gcs().uri())) {
      System.setProperty("reshard.gcs.endpoint", proxy.uri().toString());
      proxy.decide(
          request -> {
            try {
              Thread.sleep(delay);
            } catch (InterruptedException e) {
              Thread.currentThread().interrupt();
            }
            return FaultyProxy.Fate.PASSES;
          });
      ReshardOptions options = Resharding.options(Path.of("in"), Path.of("out"), 1);
      options.setInput("gs://" + BUCKET + "/in");
      options.setOutput("gs://" + BUCKET + "/out");
      options.setTargetWorldSize(Integer.parseInt(args[1]));
      SourceStore store = Stores.source(options.getInput(), options);
      for (int round = 1; round <= 3; round++) {
        report("one after the other", new OneAfterTheOther(store), options, proxy);
        report(store.readsAtOnce() + " at once", store, options, proxy);
      }
    }
    System.exit(0);
  }

  private static void report(
      String what, SourceStore store, ReshardOptions options, FaultyProxy proxy)
      throws IOException {
    int before = proxy.seen().size();
    long begin = System.nanoTime();
    ReshardPipeline.plan(store, options);
    System.out.printf(
        "%-20s %6.2f s, %d requests%n",
        what, (System.nanoTime() - begin) / 1e9, proxy.seen().size() - before);
  }
}
