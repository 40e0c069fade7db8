package io.github.reshard.pipeline;

import static io.github.reshard.testing.Scratch.TAG;
import static io.github.reshard.testing.Scratch.shard;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.planner.ReshardPlanner;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.testing.Scratch;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Odd places and names of inputs and outputs, and what happens to them meanwhile. */
@Timeout(120)
class SurroundingsTest {
  @TempDir Path scratch;
  private Path input;
  private Path output;

  @BeforeEach
  void copy() {
    input = Scratch.copyOf(Scratch.source(), scratch.resolve("input"));
    output = scratch.resolve("output");
  }

  private Path file(String name) {
    return input.resolve(TAG).resolve(name);
  }

  @Test
  void linksToFilesAndDirectoriesAreFollowed() throws IOException {
    Path elsewhere = scratch.resolve("elsewhere");
    Files.createDirectory(elsewhere);
    Files.move(file(shard(2)), elsewhere.resolve("content"));
    Files.createSymbolicLink(file(shard(2)), elsewhere.resolve("content"));
    Path link = Files.createSymbolicLink(scratch.resolve("link"), input);

    Resharding.run(Resharding.options(link, output, 6));

    assertThat(output.resolve(TAG).resolve(shard(2)))
        .hasSameBinaryContentAs(elsewhere.resolve("content"));
  }

  @Test
  void anOutputThatIsTheInputByAnotherNameIsRefused() throws IOException {
    Path link = Files.createSymbolicLink(scratch.resolve("link"), input);
    Map<String, String> before = Scratch.contents(input);
    for (Path same : List.of(input, link, input.resolve(TAG), input.resolve(TAG).resolve("sub"))) {
      ReshardOptions options = Resharding.options(input, same, 2);
      options.setOverwrite(true);
      assertThatThrownBy(() -> Resharding.run(options)).isInstanceOf(OutputException.class);
    }
    assertThat(Scratch.contents(input)).isEqualTo(before);
  }

  @Test
  void anOutputThatHoldsTheTagIsKept() throws IOException {
    Files.createDirectories(output.resolve(TAG));
    Files.writeString(output.resolve(TAG).resolve("mine"), "precious");
    Map<String, String> before = Scratch.contents(output);

    assertThatThrownBy(() -> Resharding.run(Resharding.options(input, output, 2)))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("--overwrite");

    assertThat(Scratch.contents(output)).isEqualTo(before);
  }

  @Test
  void aPipeIsRefusedAndNotWaitedFor() throws IOException, InterruptedException {
    Files.delete(file(shard(1)));
    int made = new ProcessBuilder("mkfifo", file(shard(1)).toString()).start().waitFor();
    assertThat(made).isZero();

    assertThat(Resharding.refusal(input, output, 2)).contains(shard(1), "pipe");
  }

  @Test
  void namesMayHoldSpacesAndAnyScript() throws IOException {
    Path odd = scratch.resolve("ein Verzeichnis, 検査 ü'\"$(x)");
    Files.move(input, odd);
    Files.move(odd.resolve(TAG), odd.resolve("schritt 3 ✓"));
    Files.writeString(odd.resolve("latest"), "schritt 3 ✓");
    Files.writeString(odd.resolve("schritt 3 ✓").resolve("noté à moi.txt"), "x");

    Resharding.run(Resharding.options(odd, scratch.resolve("aus gabe é"), 6));

    Map<String, String> written = Scratch.contents(scratch.resolve("aus gabe é"));
    written.keySet().removeIf(name -> name.endsWith(CheckpointFiles.MANIFEST));
    assertThat(written).isEqualTo(Scratch.contents(odd));
  }

  @Test
  void aSourceThatChangesAfterPlanningIsRefused() throws IOException {
    LocalSourceStore store = new LocalSourceStore();
    CheckpointFiles files = CheckpointFiles.discover(store, input.toString(), Optional.empty());
    byte[] bytes = Files.readAllBytes(file(shard(0)));
    Files.write(file(shard(0)), bytes);
    Files.setLastModifiedTime(file(shard(0)), java.nio.file.attribute.FileTime.fromMillis(1));

    assertThatThrownBy(() -> ReshardPlanner.plan(store, files, 2, 1 << 20))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("changed while it was being read");
  }
}
