package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.pipeline.FaultyProxy.Fate;
import io.github.reshard.pipeline.FaultyProxy.Seen;
import io.github.reshard.pipeline.storage.Stores;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Predicate;
import java.util.stream.Stream;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInfo;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Checkpoints in {@code gs://}, on an emulator with a proxy in front of it. */
class GoogleBucketsTest {
  private static final String BUCKET = "checkpoints";
  private static final String MANIFEST = "reshard-manifest.json";

  private static FaultyProxy proxy;
  private static GcsTree bucket;

  @TempDir Path directory;
  private String name;

  @BeforeAll
  static void start() throws IOException {
    proxy = new FaultyProxy(Emulator.gcs().uri());
    System.setProperty("reshard.gcs.endpoint", proxy.uri().toString());
    // The corpus is tiny; so are the parts, and the way of large files is taken.
    System.setProperty("reshard.smallRunBytes", "100");
    bucket = new GcsTree(Emulator.gcs().uri(), BUCKET);
  }

  @AfterAll
  static void stop() {
    System.clearProperty("reshard.gcs.endpoint");
    System.clearProperty("reshard.smallRunBytes");
    proxy.close();
  }

  @BeforeEach
  void name(TestInfo test) {
    proxy.decide(request -> Fate.PASSES);
    name = test.getTestMethod().orElseThrow().getName() + "-" + System.nanoTime();
  }

  private static String gs(String path) {
    return "gs://" + BUCKET + "/" + path;
  }

  private ReshardReport reshard(String input, String output, int worldSize) {
    return Resharding.run(options(input, output, worldSize));
  }

  private static ReshardOptions options(String input, String output, int worldSize) {
    ReshardOptions options = Resharding.options(Path.of("in"), Path.of("out"), worldSize);
    options.setInput(input);
    options.setOutput(output);
    options.setPartBytes(1000);
    return options;
  }

  private static Map<String, byte[]> withoutManifest(Map<String, byte[]> tree) {
    Map<String, byte[]> rest = new TreeMap<>(tree);
    rest.keySet().removeIf(file -> file.endsWith(MANIFEST));
    return rest;
  }

  private static void assertSameFiles(Map<String, byte[]> actual, Map<String, byte[]> expected) {
    assertThat(actual.keySet()).isEqualTo(expected.keySet());
    expected.forEach((file, bytes) -> assertThat(actual.get(file)).as(file).isEqualTo(bytes));
  }

  private void assertResharded(String output, GoldenCase golden, int worldSize) throws IOException {
    Map<String, byte[]> expected = GcsTree.local(Resharding.of(golden, worldSize));
    assertThat(expected.keySet()).anyMatch(file -> file.endsWith(MANIFEST));
    Map<String, byte[]> actual = bucket.under(output);
    assertThat(actual.keySet()).isEqualTo(expected.keySet());
    assertSameFiles(withoutManifest(actual), withoutManifest(expected));
  }

  @Test
  void aDistributedCheckpointInABucketIsTheLocalOne() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-freeze-tie");
    bucket.upload(golden.source(), name + "/source");
    ReshardOptions options = options(gs(name + "/source"), gs(name + "/dcp"), 1);
    options.setTargetWorldSize(null);
    options.setOutputFormat(ReshardOptions.DCP);
    Resharding.run(options);

    options = options(golden.source().toString(), directory.resolve("dcp").toString(), 1);
    options.setTargetWorldSize(null);
    options.setOutputFormat(ReshardOptions.DCP);
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
    assertThat(Scratch.refusal(options)).contains("one store reads both");
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
        withoutManifest(GcsTree.local(local)),
        withoutManifest(GcsTree.local(Resharding.of(golden, other))));

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

  /** What another writer does to a part between the listing and the compose. */
  private enum Zombie {
    OVERWRITES,
    REMOVES
  }

  @ParameterizedTest
  @EnumSource
  void aPartThatAZombieTouchesIsNeverComposed(Zombie zombie) throws IOException {
    GoldenCase golden = GoldenCase.of("z2-fp32-twogroups");
    Set<String> touched = ConcurrentHashMap.newKeySet();
    proxy.decide(
        request -> {
          if (request.isCompose() && touched.isEmpty()) {
            String part = request.components().get(0).name();
            touched.add(part);
            if (zombie == Zombie.OVERWRITES) {
              bucket.write(part, new byte[1000]);
            } else {
              bucket.delete(part);
            }
          }
          return Fate.PASSES;
        });
    assertThatThrownBy(() -> reshard(golden.source().toString(), gs(name), 2))
        .satisfies(
            thrown ->
                assertThat(cause(thrown, OutputException.class))
                    .hasMessageContaining("found nothing. Something else writes to the output"));
    assertThat(touched).hasSize(1);
    String file = touched.iterator().next().replaceFirst("/parts/(.*)\\.parts/.*", "/files/$1");
    // Other threads of the runner may still write parts where nobody looks.
    assertThat(bucket.under(name).keySet())
        .allMatch(left -> left.startsWith(".reshard-" + golden.tag() + ".unpublished/"))
        .doesNotContain(file.substring(name.length() + 1));

    reshard(golden.source().toString(), gs(name), 2);
    Map<String, byte[]> published = bucket.under(name);
    published.keySet().removeIf(left -> left.startsWith(".reshard-"));
    assertSameFiles(
        withoutManifest(published), withoutManifest(GcsTree.local(Resharding.of(golden, 2))));
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
  void partsThatCannotBeRemovedAreSaidAndCleanedUpLater() throws IOException {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    proxy.decide(request -> request.method().equals("DELETE") ? Fate.FORBIDDEN : Fate.PASSES);
    ReshardReport report = reshard(golden.source().toString(), gs(name), 3);
    assertThat(report.notes())
        .anySatisfy(
            note ->
                assertThat(note)
                    .contains("the output is whole")
                    .endsWith("scripts/reshard cleanup --output=" + gs(name)));
    Map<String, byte[]> left = bucket.under(name);
    left.keySet().removeIf(file -> !file.startsWith(".reshard-"));
    assertThat(left).isNotEmpty();

    proxy.decide(request -> Fate.PASSES);
    ReshardOptions options = options(golden.source().toString(), gs(name), 3);
    List<Leftovers.Removed> removed = Stores.removeLeftovers(gs(name), options);
    assertThat(removed)
        .extracting(Leftovers.Removed::where)
        .contains(gs(name + "/.reshard-" + golden.tag() + ".unpublished"));
    assertThat(removed.stream().mapToLong(Leftovers.Removed::bytes).sum())
        .isEqualTo(left.values().stream().mapToLong(content -> content.length).sum());
    assertResharded(name, golden, 3);
    assertThat(Stores.removeLeftovers(gs(name), options)).isEmpty();
  }

  @Test
  void cleaningUpAfterACrashLeavesWhatPublishingNeeds() throws IOException {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    bucket.write(name + "/other/model.pt", new byte[1]);
    proxy.decide(
        request ->
            request.isCompose() || request.method().equals("DELETE")
                ? Fate.FORBIDDEN
                : Fate.PASSES);
    assertThatThrownBy(() -> reshard(golden.source().toString(), gs(name), 3))
        .isInstanceOf(Exception.class);
    proxy.decide(request -> Fate.PASSES);
    ReshardOptions options = options(golden.source().toString(), gs(name), 3);
    assertThatThrownBy(() -> Stores.removeLeftovers(gs(name), options))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("another run is writing to it");
    holderDies(golden);
    assertThat(Stores.removeLeftovers(gs(name), options)).hasSize(2);
    assertThat(bucket.under(name).keySet()).containsExactly("other/model.pt");

    AtomicInteger copies = new AtomicInteger();
    proxy.decide(
        request -> request.isCopy() && copies.incrementAndGet() > 2 ? Fate.FORBIDDEN : Fate.PASSES);
    assertThatThrownBy(() -> reshard(golden.source().toString(), gs(name), 3))
        .isInstanceOf(Exception.class);
    proxy.decide(request -> Fate.PASSES);
    Map<String, byte[]> before = bucket.under(name);
    assertThatThrownBy(() -> Stores.removeLeftovers(gs(name), options))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("Run the same reshard again");
    assertSameFiles(bucket.under(name), before);
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
                assertThat(cause(thrown, RefusedException.class))
                    .hasMessageContaining("changed or was removed while it was being read"));
    // A worker that was late may have put down a part after the output was abandoned.
    Stores.removeLeftovers(gs(name + "/out"), options(name, gs(name + "/out"), 3));
    assertThat(bucket.under(name + "/out")).isEmpty();
  }

  private static Throwable cause(Throwable thrown, Class<? extends Throwable> type) {
    for (Throwable t = thrown; t != null; t = t.getCause()) {
      if (type.isInstance(t)) {
        return t;
      }
    }
    return thrown;
  }

  /**
   * Every third request of any kind meets the fault, but none more than twice: a store that keeps
   * failing one request is another test.
   */
  @ParameterizedTest
  @EnumSource(
      value = Fate.class,
      names = {"TOO_MANY_REQUESTS", "UNAVAILABLE", "RESET", "CUT_SHORT", "ANSWER_LOST", "SLOW"})
  void aPoorNetworkChangesNothing(Fate fate) throws IOException {
    GoldenCase golden = GoldenCase.of("z2-fp32-twogroups");
    bucket.upload(golden.source(), name + "/source");
    AtomicInteger count = new AtomicInteger();
    Map<String, Integer> met = new ConcurrentHashMap<>();
    proxy.decide(
        request ->
            count.incrementAndGet() % 3 == 0
                    && met.merge(request.method() + request.path(), 1, Integer::sum) <= 2
                ? fate
                : Fate.PASSES);
    reshard(gs(name + "/source"), gs(name + "/out"), 2);
    assertThat(count.get()).isGreaterThan(30);
    proxy.decide(request -> Fate.PASSES);
    assertResharded(name + "/out", golden, 2);
  }

  @Test
  void everyLostAnswerOfAWriteIsFoundOut() throws IOException {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    Map<String, Integer> tries = new TreeMap<>();
    proxy.decide(
        request -> {
          boolean first;
          synchronized (tries) {
            first = tries.merge(request.method() + request.path(), 1, Integer::sum) == 1;
          }
          boolean write = request.isUpload() || request.isCompose() || request.isCopy();
          return write && first ? Fate.ANSWER_LOST : Fate.PASSES;
        });
    reshard(golden.source().toString(), gs(name), 3);
    proxy.decide(request -> Fate.PASSES);
    assertResharded(name, golden, 3);
  }

  @Test
  void aLockThatIsRenewedWhileItIsGivenBackIsGivenBack() throws IOException {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    String lock = name + "/" + lock(golden);
    AtomicInteger renewals = new AtomicInteger();
    proxy.decide(
        request -> {
          if (request.method().equals("DELETE")
              && request.path().contains(".lock")
              && renewals.getAndIncrement() < 2) {
            bucket.write(lock, bucket.under(name).get(lock(golden)));
          }
          return Fate.PASSES;
        });
    reshard(golden.source().toString(), gs(name), 3);
    assertThat(renewals).hasValue(3);
    assertResharded(name, golden, 3);
  }

  private static String lock(GoldenCase golden) {
    return ".reshard-" + golden.tag() + ".lock";
  }

  /** The process that holds the output is this one, and it lives. */
  private void holderDies(GoldenCase golden) {
    byte[] lock = bucket.under(name).get(lock(golden));
    String dead =
        new String(lock, StandardCharsets.UTF_8).replaceFirst("pid=\\d+", "pid=999999999");
    bucket.write(name + "/" + lock(golden), dead.getBytes(StandardCharsets.UTF_8));
  }

  @Test
  void aCrashLeavesNothingThatLooksWholeAndTheNextRunCleansUp() throws IOException {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    proxy.decide(
        request ->
            request.isCompose() || request.method().equals("DELETE")
                ? Fate.FORBIDDEN
                : Fate.PASSES);
    assertThatThrownBy(() -> reshard(golden.source().toString(), gs(name), 3))
        .isInstanceOf(Exception.class);
    assertThat(bucket.under(name).keySet())
        .isNotEmpty()
        .allMatch(
            file ->
                file.startsWith(".reshard-" + golden.tag() + ".unpublished/")
                    || file.equals(lock(golden)));

    proxy.decide(request -> Fate.PASSES);
    assertThatThrownBy(() -> reshard(golden.source().toString(), gs(name), 3))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("another run is writing to it");
    holderDies(golden);
    reshard(golden.source().toString(), gs(name), 3);
    assertResharded(name, golden, 3);
  }

  @Test
  void aCrashWhilePublishingIsRepairedByTheNextRun() throws IOException {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    AtomicInteger copies = new AtomicInteger();
    proxy.decide(
        request -> request.isCopy() && copies.incrementAndGet() > 2 ? Fate.FORBIDDEN : Fate.PASSES);
    assertThatThrownBy(() -> reshard(golden.source().toString(), gs(name), 3))
        .isInstanceOf(Exception.class);
    assertThat(bucket.under(name)).doesNotContainKey("latest");

    proxy.decide(request -> Fate.PASSES);
    reshard(golden.source().toString(), gs(name), 3);
    assertResharded(name, golden, 3);
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
