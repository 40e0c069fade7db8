package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.pipeline.FaultyProxy.Fate;
import io.github.reshard.pipeline.storage.Stores;
import io.github.reshard.testing.GoldenCase;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/**
 * Crashes, workers that come back from the dead and a poor network between Reshard and a bucket.
 */
class BucketFaultsTest extends BucketsCase {
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
                assertThat(Resharding.cause(thrown, OutputException.class))
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
    assertSameFiles(withoutManifest(published), withoutManifest(resharded(golden, 2)));
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
}
