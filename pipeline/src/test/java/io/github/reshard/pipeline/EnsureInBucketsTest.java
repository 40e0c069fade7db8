package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.pipeline.FaultyProxy.Fate;
import io.github.reshard.testing.GoldenCase;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** {@code ensure} of checkpoints in {@code gs://}, on an emulator with a proxy in front of it. */
class EnsureInBucketsTest extends EmulatedBucketCase {
  private static final GoldenCase GOLDEN = GoldenCase.of("z2-bf16-clip");

  @BeforeEach
  void upload() throws IOException {
    bucket.upload(GOLDEN.source(), name + "/ckpt");
  }

  private String here(String path) {
    return gs(name + "/" + path);
  }

  private static Ensure.Result ensure(String input, String output, int worldSize) {
    CommandOptions options = PipelineOptionsFactory.as(CommandOptions.class);
    options.setInput(input);
    options.setOutput(output);
    options.setTargetWorldSize(worldSize);
    return Ensure.of(options, Resharding.SILENT);
  }

  private static Map<String, byte[]> withoutManifest(Map<String, byte[]> tree) {
    Map<String, byte[]> rest = new TreeMap<>(tree);
    rest.keySet().removeIf(file -> file.endsWith("reshard-manifest.json"));
    return rest;
  }

  private void assertResharded(Map<String, byte[]> actual, int worldSize) throws IOException {
    Map<String, byte[]> expected = withoutManifest(GcsTree.local(Resharding.of(GOLDEN, worldSize)));
    assertThat(withoutManifest(actual).keySet()).isEqualTo(expected.keySet());
    expected.forEach((file, bytes) -> assertThat(actual.get(file)).as(file).isEqualTo(bytes));
  }

  private long writes() {
    return proxy.seen().stream().filter(request -> !request.method().equals("GET")).count();
  }

  @Test
  void madeBesideTheInputFoundAgainAndMadeAnewWhenTheSourceHasGoneOn() throws IOException {
    assertThat(ensure(here("ckpt/"), null, GOLDEN.sourceWorld()).directory())
        .isEqualTo(here("ckpt"));

    Ensure.Result made = ensure(here("ckpt/"), null, 3);
    assertThat(made.directory()).isEqualTo(here("ckpt-world-3"));
    assertThat(made.report()).isPresent();
    assertResharded(bucket.under(name + "/ckpt-world-3"), 3);

    proxy.decide(request -> Fate.PASSES);
    Ensure.Result found = ensure(here("ckpt"), null, 3);
    assertThat(found.directory()).isEqualTo(here("ckpt-world-3"));
    assertThat(found.report()).isEmpty();
    assertThat(writes()).as("requests that write").isZero();

    // The same bytes, saved again: another generation of each object.
    bucket.upload(GOLDEN.source(), name + "/ckpt");
    assertThat(ensure(here("ckpt"), null, 3).report()).isPresent();
    assertResharded(bucket.under(name + "/ckpt-world-3"), 3);
  }

  @Test
  void aCheckpointThatARunSavedInItsPlaceIsNotReplaced() throws IOException {
    ensure(here("ckpt"), null, 3);
    String model = name + "/ckpt-world-3/" + GOLDEN.tag() + "/mp_rank_00_model_states.pt";
    byte[] saved =
        bucket.under(model.substring(0, model.lastIndexOf('/'))).get("mp_rank_00_model_states.pt");
    saved[saved.length / 2] ^= 1;
    bucket.write(model, saved);
    Map<String, byte[]> before = bucket.under(name);

    assertThatThrownBy(() -> ensure(here("ckpt"), null, 3))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("holds what this program did not make");
    Map<String, byte[]> after = bucket.under(name);
    assertThat(after.keySet()).isEqualTo(before.keySet());
    before.forEach((file, bytes) -> assertThat(after.get(file)).as(file).isEqualTo(bytes));
  }

  @Test
  void aLocalOutputIsMadeWhateverTheSize() throws IOException {
    for (int worldSize : List.of(3, GOLDEN.sourceWorld())) {
      Path local = directory.resolve("on " + worldSize);
      Ensure.Result made = ensure(here("ckpt"), local.toString(), worldSize);
      assertThat(made.directory()).isEqualTo(local.toString());
      assertResharded(GcsTree.local(local), worldSize);
      assertThat(ensure(here("ckpt"), local.toString(), worldSize).report()).isEmpty();
    }
  }

  @Test
  void ofSeveralAtOnceOneWorks() throws Exception {
    ExecutorService ranks = Executors.newFixedThreadPool(3);
    try {
      List<Future<Ensure.Result>> all = new ArrayList<>();
      for (int rank = 0; rank < 3; rank++) {
        all.add(ranks.submit(() -> ensure(here("ckpt"), null, 3)));
      }
      int worked = 0;
      for (Future<Ensure.Result> one : all) {
        assertThat(one.get().directory()).isEqualTo(here("ckpt-world-3"));
        worked += one.get().report().isPresent() ? 1 : 0;
      }
      assertThat(worked).isEqualTo(1);
    } finally {
      ranks.shutdown();
    }
    assertResharded(bucket.under(name + "/ckpt-world-3"), 3);
  }

  @Test
  void theOutputDirectoryOfTrainerIsUnderstood() throws IOException {
    bucket.upload(GOLDEN.source(), name + "/out/checkpoint-3");
    bucket.write(
        name + "/out/checkpoint-3/trainer_state.json", "{}".getBytes(StandardCharsets.UTF_8));
    bucket.upload(GOLDEN.source().resolve(GOLDEN.tag()), name + "/out/checkpoint-6/global_step6");

    Ensure.Result made = ensure(here("out"), null, 3);
    assertThat(made.directory()).isEqualTo(here("out-world-3/checkpoint-3"));
    assertThat(made.notes()).anyMatch(note -> note.contains("checkpoint-6"));
  }

  @Test
  void aBusyStoreIsAskedAgain() throws IOException {
    AtomicInteger requests = new AtomicInteger();
    proxy.decide(request -> requests.incrementAndGet() % 7 == 0 ? Fate.UNAVAILABLE : Fate.PASSES);
    assertThat(ensure(here("ckpt"), null, 3).directory()).isEqualTo(here("ckpt-world-3"));
    proxy.decide(request -> Fate.PASSES);
    assertResharded(bucket.under(name + "/ckpt-world-3"), 3);
  }
}
