package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.storage.OutputHeldException;
import io.github.reshard.pipeline.FaultyProxy.Fate;
import io.github.reshard.pipeline.FollowEvent.Kind;
import io.github.reshard.pipeline.storage.Stores;
import io.github.reshard.testing.GoldenCase;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import org.apache.beam.runners.direct.DirectOptions;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** A run that saves into {@code gs://} is followed into {@code gs://}. */
@Timeout(600)
class FollowInBucketsTest extends BucketsCase {
  private static final GoldenCase GOLDEN = GoldenCase.of("z2-bf16-clip");

  private final List<FollowEvent> events = new CopyOnWriteArrayList<>();
  private CommandOptions options;

  @BeforeEach
  void options() {
    options = options(gs(name + "/ckpt"), gs(name + "/out"), 3).as(CommandOptions.class);
    options.as(DirectOptions.class).setBlockOnRun(false);
    options.setPoll(200L);
    options.setUntil(3_000L);
  }

  private void save(String tag) throws IOException {
    bucket.upload(GOLDEN.source().resolve(GOLDEN.tag()), name + "/ckpt/" + tag);
    bucket.write(name + "/ckpt/latest", tag.getBytes(StandardCharsets.UTF_8));
  }

  private List<String> follow(Consumer<FollowEvent> also) {
    events.clear();
    FollowPipeline.run(
        options,
        () -> false,
        event -> {
          events.add(event);
          also.accept(event);
        });
    return events.stream()
        .filter(event -> event.kind() != Kind.BEGUN && event.kind() != Kind.OVER)
        .map(event -> event.kind() + " " + event.checkpoint())
        .toList();
  }

  /** What the main job makes of the one checkpoint, as the tag that it was saved as. */
  private Map<String, byte[]> wanted(int ranks) throws IOException {
    Map<String, byte[]> all = GcsTree.local(Resharding.of(GOLDEN, ranks).resolve(GOLDEN.tag()));
    return withoutManifest(all);
  }

  private Map<String, byte[]> published(String directory, String tag) {
    return withoutManifest(bucket.under(name + "/" + directory + "/" + tag));
  }

  @Test
  void eachCheckpointIsMadeForEachSizeAndNothingIsLeft() throws IOException {
    options.setTargetWorldSize(null);
    options.setTargetWorldSizes("3,4");
    save("step1");
    AtomicInteger requests = new AtomicInteger();
    // A store that is busy now and then.
    proxy.decide(request -> requests.incrementAndGet() % 23 == 0 ? Fate.UNAVAILABLE : Fate.PASSES);
    List<String> said =
        follow(
            event -> {
              if (event.kind() == Kind.PUBLISHED && event.checkpoint().equals("step1")) {
                unchecked(() -> save("step2"));
              }
            });
    proxy.decide(request -> Fate.PASSES);

    assertThat(said).containsExactly("PUBLISHED step1", "PUBLISHED step2");
    for (String tag : List.of("step1", "step2")) {
      for (int ranks : List.of(3, 4)) {
        assertSameFiles(published("out/world-" + ranks, tag), wanted(ranks));
      }
    }
    Map<String, byte[]> all = bucket.under(name + "/out");
    assertThat(all.keySet()).noneMatch(file -> file.contains(".reshard-"));
    assertThat(all.get("world-4/latest")).asString(StandardCharsets.UTF_8).isEqualTo("step2");

    assertThat(follow(event -> {})).containsExactlyInAnyOrder("KNOWN step1", "KNOWN step2");
    save("step1");
    assertThat(follow(event -> {})).containsExactlyInAnyOrder("KNOWN step2", "PUBLISHED step1");
  }

  @Test
  void keepRemovesTheOlderOnesAndNothingElse() throws IOException {
    options.setKeep(2);
    for (String tag : List.of("step1", "step2", "step3")) {
      save(tag);
      follow(event -> {});
      assertThat(events).anyMatch(event -> event.kind() == Kind.PUBLISHED);
    }
    bucket.write(name + "/out/notes/mine.txt", new byte[] {1});
    save("step4");
    assertThat(follow(event -> {})).contains("PUBLISHED step4");

    Map<String, byte[]> all = bucket.under(name + "/out");
    assertThat(all.keySet().stream().map(file -> file.replaceFirst("/.*", "")).distinct())
        .containsExactlyInAnyOrder("latest", "notes", "step3", "step4");
    assertSameFiles(published("out", "step3"), wanted(3));
    assertSameFiles(published("out", "step4"), wanted(3));
    assertThat(all.get("latest")).asString(StandardCharsets.UTF_8).isEqualTo("step4");
  }

  @Test
  void oneThatWasChangedSinceIsNotRemoved() throws IOException {
    options.setKeep(1);
    save("step1");
    follow(event -> {});
    bucket.write(name + "/out/step1/mp_rank_00_model_states.pt", new byte[10]);
    save("step2");
    follow(event -> {});
    assertThat(events)
        .filteredOn(event -> event.kind() == Kind.PUBLISHED)
        .singleElement()
        .extracting(FollowEvent::message)
        .asString()
        .contains("step1: it is not as this program made it");
    assertThat(published("out", "step1")).isNotEmpty();
  }

  /** A crash between two objects; meanwhile the tag may have been published again. */
  @Test
  void aRemovalThatDiedIsFinishedAndTakesNothingThatCameLater() throws IOException {
    save("step1");
    follow(event -> {});
    bucket.delete(name + "/out/step1/mp_rank_00_model_states.pt");
    bucket.write(name + "/out/.reshard-step1.removing", new byte[0]);
    bucket.write(name + "/out/step1/later", new byte[] {1});

    Stores.removeLeftovers(gs(name + "/out"), options);

    assertThat(bucket.under(name + "/out").keySet()).containsExactly("latest", "step1/later");
  }

  @Test
  void aSecondOneIsTurnedAwayAndTheFirstStops() throws IOException {
    options.setUntil(null);
    save("step1");
    AtomicBoolean stop = new AtomicBoolean();
    FollowPipeline.run(
        options,
        stop::get,
        event -> {
          if (event.kind() == Kind.BEGUN) {
            assertThatThrownBy(() -> FollowPipeline.run(options, () -> true, other -> {}))
                .isInstanceOf(OutputHeldException.class);
            stop.set(true);
          }
        });
    assertThat(stop).isTrue();
    assertThat(bucket.under(name + "/out").keySet())
        .noneMatch(file -> file.startsWith(".reshard-follow"));
  }

  /** A call that may fail. */
  private interface Change {
    void make() throws IOException;
  }

  private static void unchecked(Change change) {
    try {
      change.make();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
