package io.github.reshard.pipeline;

import static io.github.reshard.testing.Scratch.MODEL;
import static io.github.reshard.testing.Scratch.TAG;
import static io.github.reshard.testing.Scratch.shard;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.testing.Scratch;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A checkpoint whose nodes wrote to disks of their own, given as {@code node*}{@code /ckpt}. */
class NodeDisksTest {
  @TempDir Path scratch;
  private Path first;
  private Path second;
  private Path output;

  /** Each node has the shards of its own ranks, and what every node's first rank writes. */
  @BeforeEach
  void twoNodes() throws IOException {
    Files.createDirectory(scratch.resolve("node0"));
    Files.createDirectory(scratch.resolve("node1"));
    first = Scratch.copyOf(Scratch.source(), scratch.resolve("node0/ckpt"));
    second = Scratch.copyOf(Scratch.source(), scratch.resolve("node1/ckpt"));
    output = scratch.resolve("output");
    int ranks = 0;
    while (Files.exists(first.resolve(TAG).resolve(shard(ranks)))) {
      ranks++;
    }
    for (int rank = 0; rank < ranks; rank++) {
      Files.delete((rank < ranks / 2 ? second : first).resolve(TAG).resolve(shard(rank)));
    }
    Files.createDirectories(scratch.resolve(".node9/ckpt/" + TAG));
  }

  private CommandOptions options() {
    CommandOptions options = Resharding.options(first, output, 2).as(CommandOptions.class);
    options.setInput(scratch + "/node*/ckpt/");
    return options;
  }

  private static Map<String, String> contents(Path output) {
    Map<String, String> contents = Scratch.contents(output);
    contents.keySet().removeIf(name -> name.endsWith("reshard-manifest.json"));
    return contents;
  }

  @Test
  void allOfThemTogetherAreOneCheckpoint() {
    Path together = scratch.resolve("together");
    Resharding.run(Resharding.options(Scratch.source(), together, 2));

    Resharding.run(options());

    assertThat(contents(output)).isEqualTo(contents(together));
    assertThat(VerifyPipeline.run(options(), Resharding.SILENT).equal()).isTrue();
    assertThat(Inspection.of(options()).refusal()).isEmpty();
    assertThat(ReshardPipeline.check(options(), Resharding.SILENT).proven()).isNotEmpty();
  }

  @Test
  void aTagOnAllOfThemMayBeNamedItself() {
    CommandOptions options = options();
    options.setInput(scratch + "/node*/ckpt/" + TAG);

    assertThat(Inspection.of(options).files().tag()).isEqualTo(TAG);
  }

  @Test
  void aNodeThatIsNotThereIsMissed() throws IOException {
    Files.move(scratch.resolve("node1"), scratch.resolve("elsewhere"));

    assertThatThrownBy(() -> Resharding.run(options())).isInstanceOf(RefusedException.class);
    assertThat(output).doesNotExist();
  }

  @Test
  void whatTwoNodesHoldMustBeTheSame() throws IOException {
    Files.writeString(second.resolve("latest"), TAG + "0");

    assertThatThrownBy(() -> Resharding.run(options()))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("node1")
        .hasMessageContaining("is not what")
        .hasMessageContaining("node0");
  }

  @Test
  void aModelOfAnotherRunOnOneNodeIsRefused() {
    Scratch.rewrite(second.resolve(TAG).resolve(MODEL), root -> {}, (key, bytes) -> bytes[0] ^= 1);

    assertThatThrownBy(() -> Resharding.run(options()))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(MODEL)
        .hasMessageContaining("is not what");
  }

  @Test
  void anOutputOnOneOfThemIsRefused() {
    Map<String, String> before = Scratch.contents(second);
    for (Path in : List.of(second, second.resolve(TAG), second.resolve("sub"))) {
      CommandOptions options = options();
      options.setOutput(in.toString());
      options.setOverwrite(true);
      assertThatThrownBy(() -> Resharding.run(options)).isInstanceOf(OutputException.class);
    }
    assertThat(Scratch.contents(second)).isEqualTo(before);
  }

  @Test
  void aDirectoryWhoseNameHasAStarIsItself() throws IOException {
    Path odd = Scratch.copyOf(Scratch.source(), scratch.resolve("a*b"));
    Files.createDirectory(scratch.resolve("acb"));
    CommandOptions options = options();
    options.setInput(odd.toString());

    assertThat(Inspection.of(options).refusal()).isEmpty();
  }

  @Test
  void aPatternThatFitsNothingIsNoCheckpoint() {
    CommandOptions options = options();
    options.setInput(scratch + "/nod*/x");

    assertThatThrownBy(() -> Resharding.run(options)).isInstanceOf(RefusedException.class);
  }

  @Test
  void ensureCannotPrintSeveralDirectories() {
    assertThatThrownBy(() -> Ensure.of(options(), Resharding.SILENT))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("several directories");
  }
}
