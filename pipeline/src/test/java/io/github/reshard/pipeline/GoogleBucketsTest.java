package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.pipeline.FaultyProxy.Fate;
import io.github.reshard.pipeline.FaultyProxy.Seen;
import io.github.reshard.pipeline.storage.Stores;
import io.github.reshard.testing.GoldenCase;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Predicate;
import java.util.stream.Stream;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Checkpoints that go to, from and between buckets, and what is said of a bucket. */
class GoogleBucketsTest extends BucketsCase {
  @Test
  void aDistributedCheckpointInABucketIsTheLocalOne() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-freeze-tie");
    bucket.upload(golden.source(), name + "/source");
    ReshardOptions options = options(gs(name + "/source"), gs(name + "/dcp"), 1);
    options.setTargetWorldSize(null);
    options.setOutputFormat(Formats.DCP);
    Resharding.run(options);

    options = options(golden.source().toString(), directory.resolve("dcp").toString(), 1);
    options.setTargetWorldSize(null);
    options.setOutputFormat(Formats.DCP);
    Resharding.run(options);
    Map<String, byte[]> expected = GcsTree.local(directory.resolve("dcp"));
    assertThat(expected).containsKeys("latest_dcp", golden.tag() + "/.metadata");
    assertSameFiles(withoutManifest(bucket.under(name + "/dcp")), withoutManifest(expected));

    CommandOptions both = options(gs(name + "/source"), null, 1).as(CommandOptions.class);
    both.setOutput(gs(name + "/dcp/" + golden.tag()));
    assertThat(VerifyPipeline.run(both, Resharding.SILENT).equal()).isTrue();
    both.setInput(golden.source().toString());
    assertThatThrownBy(() -> VerifyPipeline.run(both, Resharding.SILENT))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("one is local and the other one is not");

    options = options(gs(name + "/dcp/" + golden.tag()), gs(name + "/back"), 2);
    options.setTemplate(gs(name + "/source"));
    Resharding.run(options);
    Path localDcp = directory.resolve("dcp").resolve(golden.tag());
    ReshardOptions local = options(localDcp.toString(), directory.resolve("back").toString(), 2);
    local.setTemplate(golden.source().toString());
    Resharding.run(local);
    assertSameFiles(
        withoutManifest(bucket.under(name + "/back")),
        withoutManifest(GcsTree.local(directory.resolve("back"))));

    options.setTemplate(golden.source().toString());
    assertThat(Resharding.refusal(options)).contains("one store reads both");
  }

  @ParameterizedTest
  @ValueSource(strings = {"z2-fp32-twogroups", "z2-freeze-tie", "pp2-z1"})
  void fromBucketToBucketToLocalAndBackGivesTheSameBytes(String caseName) throws IOException {
    GoldenCase golden = GoldenCase.of(caseName);
    bucket.upload(golden.source(), name + "/source");
    int other = golden.sourceWorld() == 2 ? 3 : 2;

    reshard(gs(name + "/source"), gs(name + "/other"), other);
    assertResharded(name + "/other", golden, other);

    Path local = directory.resolve("local");
    reshard(gs(name + "/source"), local.toString(), other);
    assertSameFiles(
        withoutManifest(GcsTree.local(local)), withoutManifest(resharded(golden, other)));

    reshard(golden.source().toString(), gs(name + "/uploaded"), other);
    assertResharded(name + "/uploaded", golden, other);
  }

  static Stream<GoldenCase> corpus() {
    return GoldenCase.all().stream()
        .filter(golden -> golden.directory().getParent().endsWith("corpus"));
  }

  @ParameterizedTest
  @MethodSource("corpus")
  void theCorpusGoesFromBucketToBucket(GoldenCase golden) throws IOException {
    // Experts need a multiple of their ranks.
    int other = golden.expertParallelSize() > 1 ? 2 * golden.sourceWorld() : 3;
    bucket.upload(golden.source(), name + "/source");
    ReshardOptions options = options(gs(name + "/source"), gs(name + "/out"), other);
    options.setPartBytes(1 << 20);
    Resharding.run(options);
    assertResharded(name + "/out", golden, other);
  }

  @Test
  void fromNToNIsByteIdentical() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-bf16-clip");
    bucket.upload(golden.source(), name + "/source");
    reshard(gs(name + "/source"), gs(name + "/same/"), golden.sourceWorld());
    assertSameFiles(withoutManifest(bucket.under(name + "/same")), GcsTree.local(golden.source()));
  }

  @Test
  void manyPartsAreComposedInATreeAndRemoved() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-fp32-twogroups");
    ReshardOptions options = options(golden.source().toString(), gs(name), 1);
    options.setPartBytes(500);
    Resharding.run(options);
    assertResharded(name, golden, 1);
    assertThat(proxy.seen()).anyMatch(s -> s.isCompose() && s.path().contains(".joined/compose"));
  }

  @Test
  void everyComposeNamesTheGenerationsOfItsSourcesAndThatItsTargetIsNotThere() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-fp32-twogroups");
    reshard(golden.source().toString(), gs(name), 2);
    assertThat(proxy.seen().stream().filter(Seen::isCompose))
        .isNotEmpty()
        .allSatisfy(
            compose -> {
              assertThat(compose.path()).contains("ifGenerationMatch=0");
              assertThat(compose.components())
                  .isNotEmpty()
                  .allSatisfy(component -> assertThat(component.generation()).matches("[1-9]\\d*"));
            });
  }

  @Test
  void headersOfSeveralFilesAreReadAtOnce() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-bf16-clip");
    bucket.upload(golden.source(), name + "/source");
    AtomicInteger inFlight = new AtomicInteger();
    CountDownLatch two = new CountDownLatch(2);
    proxy.decide(
        request -> {
          if (request.isRead() && request.path().contains("optim_states")) {
            two.countDown();
            try {
              // One after the other, the first would wait here for good.
              assertThat(two.await(1, TimeUnit.MINUTES)).isTrue();
            } catch (InterruptedException e) {
              throw new IllegalStateException(e);
            }
            inFlight.incrementAndGet();
          }
          return Fate.PASSES;
        });
    ReshardOptions options = options(gs(name + "/source"), gs(name + "/out"), 2);
    ReshardPlan plan = ReshardPipeline.plan(Stores.source(options.getInput(), options), options);
    assertThat(inFlight).hasValueGreaterThanOrEqualTo(golden.sourceWorld());

    ReshardOptions local = options(golden.source().toString(), gs(name + "/out"), 2);
    ReshardPlan same = ReshardPipeline.plan(Stores.source(local.getInput(), local), local);
    assertThat(plan.targets()).isEqualTo(same.targets());
    assertThat(plan.models()).isEqualTo(same.models());
  }

  @Test
  void readsAreRangesOfTheGenerationThatWasPlannedWith() throws IOException {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    bucket.upload(golden.source(), name + "/source");
    proxy.decide(request -> Fate.PASSES);
    reshard(gs(name + "/source"), directory.resolve("out").toString(), 3);
    assertThat(proxy.seen().stream().filter(Seen::isRead))
        .isNotEmpty()
        .allSatisfy(
            read -> {
              assertThat(read.path()).contains("generation=");
              assertThat(read.range()).matches("bytes=\\d+-\\d+");
            });
  }

  @Test
  void aSourceThatChangesIsRefused() throws IOException {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    bucket.upload(golden.source(), name + "/source");
    AtomicInteger uploads = new AtomicInteger();
    Map<String, byte[]> files = GcsTree.local(golden.source());
    proxy.decide(
        request -> {
          // The first upload comes after planning and before any payload is read.
          if (request.isUpload() && uploads.getAndIncrement() == 0) {
            files.forEach((file, bytes) -> bucket.write(name + "/source/" + file, bytes));
          }
          return Fate.PASSES;
        });
    assertThatThrownBy(() -> reshard(gs(name + "/source"), gs(name + "/out"), 3))
        .satisfies(
            thrown ->
                assertThat(Resharding.cause(thrown, RefusedException.class))
                    .hasMessageContaining("changed or was removed while it was being read"));
    // A worker that was late may have put down a part after the output was abandoned.
    Stores.removeLeftovers(gs(name + "/out"), options(name, gs(name + "/out"), 3));
    assertThat(bucket.under(name + "/out")).isEmpty();
  }

  @Test
  void aTagThatIsThereIsReplacedOnlyWithOverwriteAndLatestNeverNamesAHalf() throws IOException {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    reshard(golden.source().toString(), gs(name), 3);
    bucket.write(name + "/" + golden.tag() + "/left-over.pt", new byte[1]);
    Map<String, byte[]> before = bucket.under(name);
    assertThatThrownBy(() -> reshard(golden.source().toString(), gs(name), 2))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("--overwrite");
    assertSameFiles(bucket.under(name), before);

    proxy.decide(
        request -> {
          if (request.isCopy()) {
            assertThat(bucket.under(name)).doesNotContainKey("latest");
          }
          return Fate.PASSES;
        });
    ReshardOptions options = options(golden.source().toString(), gs(name), 2);
    options.setOverwrite(true);
    Resharding.run(options);
    assertResharded(name, golden, 2);
    assertThat(new String(bucket.under(name).get("latest"), StandardCharsets.UTF_8))
        .isEqualTo(golden.tag());
  }

  @Test
  void aBucketThatIsNotThereIsSaid() {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    assertThatThrownBy(() -> reshard("gs://no-such-bucket/x", gs(name), 2))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("there is no bucket no-such-bucket");
    assertThatThrownBy(() -> reshard(golden.source().toString(), "gs://no-such-bucket/x", 2))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("there is no bucket no-such-bucket");
  }

  @Test
  void whoMayNotIsToldWhatIsMissing() {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    ThrowingCallable read = () -> reshard(gs(name), directory.toString(), 2);
    ThrowingCallable write = () -> reshard(golden.source().toString(), gs(name), 2);
    proxy.decide(request -> Fate.UNAUTHORIZED);
    assertThatThrownBy(read)
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("gcloud auth application-default login");
    assertThatThrownBy(write)
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("gcloud auth application-default login");
    proxy.decide(request -> Fate.FORBIDDEN);
    assertThatThrownBy(read)
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("storage.objects.get");
    Predicate<Seen> changes = request -> !request.method().equals("GET");
    proxy.decide(request -> changes.test(request) ? Fate.FORBIDDEN : Fate.PASSES);
    assertThatThrownBy(write)
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("storage.objects.create");
  }
}
