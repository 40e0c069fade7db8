package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.storage.OutputHeldException;
import io.github.reshard.pipeline.FollowEvent.Kind;
import io.github.reshard.testing.Scratch;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.apache.beam.runners.direct.DirectOptions;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Whole jobs on the DirectRunner, with its checks of coders and mutations on. */
@Timeout(600)
class FollowPipelineTest {
  @TempDir Path scratch;
  private SavingRun saving;
  private Path output;
  private CommandOptions options;
  private final List<FollowEvent> events = new CopyOnWriteArrayList<>();

  @BeforeEach
  void options() throws IOException {
    saving = new SavingRun(scratch.resolve("ckpt"));
    Files.createDirectory(saving.directory);
    output = scratch.resolve("out");
    options =
        Resharding.checked(Resharding.options(saving.directory, output, 4))
            .as(CommandOptions.class);
    options.as(DirectOptions.class).setBlockOnRun(false);
    options.setPoll(100L);
    options.setUntil(1_000L);
    options.setPartBytes(2_048);
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
    return said();
  }

  private List<String> said() {
    return events.stream()
        .filter(event -> event.kind() != Kind.BEGUN && event.kind() != Kind.OVER)
        .map(event -> event.kind() + " " + event.checkpoint())
        .toList();
  }

  private interface Change {
    void make() throws IOException;
  }

  private static void make(Change change) {
    try {
      change.make();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Without the manifests, which tell times and runs. */
  private static Map<String, String> contents(Path directory) {
    Map<String, String> contents = new TreeMap<>(Scratch.contents(directory));
    contents.keySet().removeIf(name -> name.endsWith("reshard-manifest.json"));
    return contents;
  }

  private Map<String, String> wanted(String tag, int ranks) {
    Path main = scratch.resolve("main-" + tag + "-" + ranks);
    ReshardOptions of = Resharding.options(saving.directory, main, ranks);
    of.setTag(tag);
    Resharding.run(of);
    return contents(main.resolve(tag));
  }

  @Test
  void itMakesWhatTheMainJobMakesOfEachCheckpointForEachSize() throws IOException {
    options.setTargetWorldSize(null);
    options.setTargetWorldSizes("4,9");
    saving.save("step1");

    List<String> said =
        follow(
            event -> {
              if (event.kind() == Kind.PUBLISHED && event.checkpoint().equals("step1")) {
                make(() -> saving.save("step2"));
              }
            });

    assertThat(said).containsExactly("PUBLISHED step1", "PUBLISHED step2");
    for (String tag : List.of("step1", "step2")) {
      for (int ranks : List.of(4, 9)) {
        assertThat(contents(output.resolve("world-" + ranks).resolve(tag)))
            .isEqualTo(wanted(tag, ranks));
      }
    }
    assertThat(output.resolve("world-9/latest")).hasContent("step2");
    assertThat(names(output)).containsExactlyInAnyOrder("world-4", "world-9");
    assertThat(names(output.resolve("world-4")))
        .containsExactlyInAnyOrder("latest", "step1", "step2");
  }

  @Test
  void aDamagedOneIsRefusedWithTheMessageOfTheMainJobAndTheNextIsMade() throws IOException {
    saving.saveDamaged("step1");
    saving.save("step2");

    assertThat(follow(event -> {})).containsExactly("REFUSED step1", "PUBLISHED step2");

    ReshardOptions main = Resharding.options(saving.directory, scratch.resolve("main"), 4);
    main.setTag("step1");
    assertThat(output.resolve("refused/step1.json")).exists();
    assertThatThrownBy(() -> Resharding.run(main))
        .rootCause()
        .hasMessage(
            events.stream().filter(e -> e.kind() == Kind.REFUSED).findFirst().get().message());
    assertThat(contents(output.resolve("step2"))).isEqualTo(wanted("step2", 4));
    assertThat(output.resolve("step1")).doesNotExist();

    // Again, with nothing but what stands in the output.
    assertThat(follow(event -> {})).containsExactlyInAnyOrder("REFUSED step1", "KNOWN step2");
  }

  @Test
  void oneThatVanishesWhileItIsReadIsGivenUp() throws IOException {
    saving.save("step1");
    saving.save("step2");
    List<String> said =
        follow(
            event -> {
              if (event.kind() == Kind.BEGUN && event.checkpoint().equals("step1")) {
                make(() -> saving.delete("step1"));
              }
            });
    assertThat(said).hasSize(2).last().isEqualTo("PUBLISHED step2");
    // It may have been read before it went, and is then whole in the output.
    if (said.get(0).equals("GONE step1")) {
      assertThat(output.resolve("step1")).doesNotExist();
    } else {
      assertThat(said.get(0)).isEqualTo("PUBLISHED step1");
      assertThat(contents(output.resolve("step1")).keySet())
          .isEqualTo(contents(output.resolve("step2")).keySet());
    }
  }

  @Test
  void itStopsWhenItIsAskedTo() throws IOException {
    options.setUntil(null);
    saving.save("step1");
    AtomicBoolean stop = new AtomicBoolean();
    FollowPipeline.run(
        options,
        stop::get,
        event -> {
          events.add(event);
          stop.set(true);
        });
    assertThat(events).last().extracting(FollowEvent::kind).isEqualTo(Kind.OVER);
    assertThat(names(output)).allMatch(name -> name.equals("step1") || name.equals("latest"));
  }

  @Test
  void twoCannotFollowIntoOneOutput() throws IOException {
    options.setUntil(null);
    saving.save("step1");
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
  }

  @Test
  void anOutputThatCannotBeWrittenEndsTheJobAfterSomeTries() throws IOException {
    System.setProperty(FollowPipeline.RETRY_PROPERTY, "1");
    try {
      saving.save("step1");
      Files.createDirectories(output);
      Files.writeString(output.resolve(".reshard-step1.unpublished"), "in the way");
      follow(event -> {});
    } finally {
      System.clearProperty(FollowPipeline.RETRY_PROPERTY);
    }
    // What is left of a dead job is removed first.
    assertThat(said()).contains("PUBLISHED step1");
    saving.save("step2");
    Files.createDirectories(output.resolve("step2"));
    Files.writeString(output.resolve("step2/notes.txt"), "somebody's own");
    System.setProperty(FollowPipeline.RETRY_PROPERTY, "1");
    try {
      follow(event -> {});
    } finally {
      System.clearProperty(FollowPipeline.RETRY_PROPERTY);
    }
    assertThat(events).last().extracting(FollowEvent::kind).isEqualTo(Kind.FAILED);
    assertThat(events).last().extracting(FollowEvent::message).asString().contains("already holds");
    assertThat(output.resolve("step2/notes.txt")).hasContent("somebody's own");
  }

  @Test
  void whatWasHalfPublishedIsRepaired() throws IOException {
    saving.save("step1");
    follow(event -> {});
    Map<String, String> whole = contents(output);
    // As a crash between two steps of publishing leaves it.
    Files.createFile(output.resolve(".reshard-step1.publishing"));
    Files.delete(output.resolve("latest"));

    assertThat(follow(event -> {})).containsExactly("PUBLISHED step1");
    assertThat(contents(output)).isEqualTo(whole);
  }

  private static List<String> names(Path directory) throws IOException {
    try (Stream<Path> paths = Files.list(directory)) {
      return paths.map(path -> path.getFileName().toString()).toList();
    }
  }
}
