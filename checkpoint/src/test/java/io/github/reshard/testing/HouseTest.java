package io.github.reshard.testing;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;

/** What holds for the sources of all modules. */
class HouseTest {
  private static final int MOST_LINES = 400;

  /** Files that are still longer, with the reason; whoever cuts one takes it out here. */
  private static final Map<String, String> LONGER = Map.of();

  private static final Pattern OWN_VERSION =
      Pattern.compile("<artifactId>reshard</artifactId>\\s*<version>([^<]*)</version>");

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

  /** The manifest, {@code reshard --version} and pip say it the same way, which PEP 440 gives. */
  @Test
  void allModulesAreOfOneVersionThatPipTakes() throws IOException {
    Set<String> versions = new HashSet<>();
    for (String module : Sources.MODULES) {
      String pom = Files.readString(Sources.ROOT.resolve(module).resolve("pom.xml"));
      Matcher own = OWN_VERSION.matcher(pom);
      assertThat(own.find()).as(module).isTrue();
      versions.add(own.group(1));
    }
    assertThat(versions).singleElement().asString().matches("\\d+\\.\\d+\\.\\d+(\\.dev\\d+)?");
    assertThat(Files.readString(Sources.ROOT.resolve("scripts/package")))
        .doesNotContain("SNAPSHOT", ".dev0");
  }
}
