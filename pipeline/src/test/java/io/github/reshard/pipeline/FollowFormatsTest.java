package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.pipeline.FollowEvent.Kind;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Scratch;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.beam.runners.direct.DirectOptions;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** A run is followed into other formats, and one that saves in another format is not followed. */
@Timeout(600)
class FollowFormatsTest {
  @TempDir Path scratch;
  private SavingRun saving;
  private Path output;
  private CommandOptions options;
  private final List<FollowEvent> events = new ArrayList<>();

  @BeforeEach
  void options() throws IOException {
    saving = new SavingRun(scratch.resolve("ckpt"));
    Files.createDirectory(saving.directory);
    output = scratch.resolve("out");
    options = Resharding.options(saving.directory, output, 4).as(CommandOptions.class);
    options.as(DirectOptions.class).setBlockOnRun(false);
    options.setPoll(100L);
    options.setUntil(1_000L);
  }

  private List<String> follow() {
    events.clear();
    FollowPipeline.run(options, () -> false, events::add);
    return events.stream()
        .filter(event -> event.kind() != Kind.BEGUN && event.kind() != Kind.OVER)
        .map(event -> event.kind() + " " + event.checkpoint())
        .toList();
  }

  private static Map<String, String> contents(Path directory) {
    Map<String, String> contents = new TreeMap<>(Scratch.contents(directory));
    contents.keySet().removeIf(name -> name.endsWith("reshard-manifest.json"));
    return contents;
  }

  @ParameterizedTest
  @CsvSource({"dcp,", "universal,", "universal, 4"})
  void whatTheMainJobMakesIsMadeOnceAndKnownAgain(String format, Integer ranks) throws IOException {
    options.setOutputFormat(format);
    options.setTargetWorldSize(ranks);
    saving.save("step1");
    saving.save("step2");
    assertThat(follow()).containsExactly("PUBLISHED step1", "PUBLISHED step2");

    Path main = scratch.resolve("main");
    for (String tag : List.of("step1", "step2")) {
      ReshardOptions of = Resharding.options(saving.directory, main, 4);
      of.setOutputFormat(format);
      of.setTargetWorldSize(ranks);
      of.setTag(tag);
      Resharding.run(of);
    }
    assertThat(contents(output)).isEqualTo(contents(main)).isNotEmpty();

    assertThat(follow()).containsExactlyInAnyOrder("KNOWN step1", "KNOWN step2");
    options.setKeep(1);
    saving.save("step3");
    assertThat(follow()).contains("PUBLISHED step3");
    assertThat(contents(output).keySet()).noneMatch(name -> name.startsWith("step1"));
    assertThat(contents(output).keySet()).anyMatch(name -> name.startsWith("step3"));
  }

  /** The way back needs a template, and following takes none. */
  @Test
  void distributedCheckpointsAreRefusedByName() throws IOException {
    Path dcp = saving.directory.resolve("step7");
    Files.createDirectories(dcp);
    Files.write(dcp.resolve(".metadata"), new byte[] {1});
    Files.write(dcp.resolve("__0_0.distcp"), new byte[] {1});
    saving.save("step8");
    assertThat(follow()).containsExactlyInAnyOrder("REFUSED step7", "PUBLISHED step8");
    assertThat(events)
        .filteredOn(event -> event.kind() == Kind.REFUSED)
        .singleElement()
        .extracting(FollowEvent::message)
        .asString()
        .contains(dcp.toString(), "distributed checkpoint", "--template");
    assertThat(output.resolve("refused/step7.json")).exists();
  }

  @Test
  void universalCheckpointsAreRefusedByName() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-bf16-clip");
    Path universal = scratch.resolve("universal");
    ReshardOptions of = Resharding.options(golden.source(), universal, 4);
    of.setOutputFormat("universal");
    of.setTargetWorldSize(null);
    Resharding.run(of);
    options.setInput(universal.toString());
    options.setTargetWorldSize(3);
    assertThat(follow()).hasSize(1);
    assertThat(events)
        .filteredOn(event -> event.kind() == Kind.REFUSED)
        .singleElement()
        .extracting(FollowEvent::message)
        .asString()
        .contains("is a Universal Checkpoint");
  }
}
