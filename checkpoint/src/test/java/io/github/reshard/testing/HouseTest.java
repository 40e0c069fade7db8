package io.github.reshard.testing;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

/** What holds for the sources of all modules. */
class HouseTest {
  private static final int MOST_LINES = 400;

  /** Files that are still longer, with the reason; whoever cuts one takes it out here. */
  private static final Map<String, String> LONGER =
      Map.ofEntries(
          Map.entry(
              "checkpoint/src/main/java/io/github/reshard/checkpoint/deepspeed/CheckpointFacts.java",
              "is being split"),
          Map.entry(
              "checkpoint/src/main/java/io/github/reshard/checkpoint/zero12/ExpertGroups.java",
              "becomes part of the reader of its format"),
          Map.entry(
              "checkpoint/src/main/java/io/github/reshard/checkpoint/zero12/FlatLayout.java",
              "becomes part of the reader of its format"),
          Map.entry(
              "checkpoint/src/test/java/io/github/reshard/checkpoint/planner/ShardedPlannerRefusalTest.java",
              "is being split"),
          Map.entry(
              "checkpoint/src/test/java/io/github/reshard/checkpoint/storage/LocalStoresTest.java",
              "is being split"),
          Map.entry(
              "pipeline/src/test/java/io/github/reshard/pipeline/GoogleBucketsTest.java",
              "is being split"),
          Map.entry(
              "pipeline/src/test/java/io/github/reshard/pipeline/HostileCheckpointTest.java",
              "is being split"),
          Map.entry(
              "pipeline/src/test/java/io/github/reshard/pipeline/Reassembly.java",
              "is being split"));

  private static List<Path> everything() {
    List<Path> all = new ArrayList<>(Sources.of("main"));
    all.addAll(Sources.of("test"));
    all.addAll(Sources.of("jmh"));
    return all;
  }

  @Test
  void noFileHasMoreThan400Lines() {
    assertThat(everything()).hasSizeGreaterThan(400);
    assertThat(Sources.longerThan(MOST_LINES, everything()).keySet())
        .as("longer than %d lines and not known to be, or known to be and no more", MOST_LINES)
        .isEqualTo(LONGER.keySet());
  }

  @Test
  void publicTypesHaveJavadoc() {
    assertThat(Sources.publicTypesWithoutJavadoc(Sources.of("main"))).isEmpty();
  }
}
