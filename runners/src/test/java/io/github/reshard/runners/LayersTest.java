package io.github.reshard.runners;

import io.github.reshard.testing.Architecture;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

/** The command and, beside it, what benchmarks are made of. */
class LayersTest {
  private static final Architecture RUNNERS = Architecture.ofModuleOf(Main.class);

  private static final Map<String, String> PAIRS =
      Map.ofEntries(
          Map.entry(
              "Command <-> CommandLine",
              "a line is of a command, and a command says what it requires of a line"),
          Map.entry("Command <-> Option", "an option says which commands take it"),
          Map.entry(
              "Command <-> Options",
              "a command asks the table for its options; the table names commands"),
          Map.entry(
              "Option <-> Options",
              "the table of all options, and the words that a kind of value may have"));

  @Test
  void theCommandDoesNotKnowTheBenchmarks() {
    RUNNERS.assertLayers(List.of("", "bench"));
  }

  @Test
  void packagesFormNoCircle() {
    RUNNERS.assertNoCircles();
  }

  @Test
  void noFormatIsNamedOutsideOfItsPackage() {
    RUNNERS.assertKnowNoFormat(
        Map.of("bench.SyntheticCheckpoint", "makes files of that format, so it asks the layout"));
  }

  @Test
  void classesThatKnowEachOtherHaveAReason() {
    RUNNERS.assertPairs(PAIRS);
  }
}
