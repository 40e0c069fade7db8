package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.SourceCopy;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A checkpoint that is not what it says is refused, and nothing is published. */
class RefusalTest {
  private static final String RANK_1 = "zero_pp_rank_1_mp_rank_00_optim_states.pt";

  @TempDir Path temp;
  private Path output;

  @BeforeEach
  void nameOutput() {
    output = temp.resolve("output");
  }

  private SourceCopy copy(String name) throws IOException {
    return SourceCopy.of(GoldenCase.of(name), temp.resolve("input"));
  }

  private RefusedException refusal(SourceCopy source) {
    Throwable failure =
        catchThrowable(() -> Resharding.run(Resharding.options(source.directory(), output, 3)));
    assertThat(output.resolve("latest")).doesNotExist();
    assertThat(output.resolve(source.tag())).doesNotExist();
    return Resharding.cause(failure, RefusedException.class);
  }

  @Test
  void aFlippedBitOfAMomentIsRefusedByFileAndEntry() throws IOException {
    SourceCopy source = copy("z2-fp32-twogroups");
    source.damage(RANK_1, "1", bytes -> bytes.put(5, (byte) (bytes.get(5) ^ 1)));

    assertThat(refusal(source)).hasMessageContaining(RANK_1).hasMessageContaining("data/1");
  }

  @Test
  void aFlippedBitOfPaddingIsRefusedToo() throws IOException {
    SourceCopy source = copy("z2-tiny-groups");
    String lastRank = "zero_pp_rank_7_mp_rank_00_optim_states.pt";
    source.damage(lastRank, "7", bytes -> bytes.put(7, (byte) 1));

    assertThat(refusal(source)).hasMessageContaining(lastRank).hasMessageContaining("data/7");
  }

  @Test
  void aFlippedBitOfAFileThatIsCopiedAsItIsIsRefused() throws IOException {
    SourceCopy source = copy("pp2-z1");
    String layer = "layer_05-model_states.pt";
    source.damage(layer, "0", bytes -> bytes.put(100, (byte) (bytes.get(100) ^ 0x40)));

    assertThat(refusal(source).getMessage()).containsAnyOf(layer, "parameter 5.");
  }

  @Test
  void theOutputMayNotBeTheInput() throws IOException {
    SourceCopy source = copy("z1-sgd");
    Path detour = source.directory().resolve("..").resolve("input");

    assertThatThrownBy(() -> Resharding.run(Resharding.options(source.directory(), detour, 3)))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("--output may not be --input");
  }

  @Test
  void aTagThatIsThereIsNotReplacedUnlessAsked() throws IOException {
    GoldenCase golden = GoldenCase.of("z1-sgd");
    Path tag = output.resolve(golden.tag());
    Files.createDirectories(tag);
    Files.writeString(tag.resolve("old"), "precious");
    Files.writeString(output.resolve("latest"), golden.tag());

    assertThatThrownBy(() -> Resharding.run(Resharding.options(golden.source(), output, 3)))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("--overwrite");
    assertThat(tag.resolve("old")).hasContent("precious");

    ReshardOptions overwrite = Resharding.options(golden.source(), output, 3);
    overwrite.setOverwrite(true);
    Resharding.run(overwrite);
    assertThat(CheckpointComparison.with(Resharding.of(golden, 3)).firstDifference(output))
        .isEmpty();
  }

  @Test
  void aRefusedOverwriteLeavesWhatWasThere() throws IOException {
    SourceCopy source = copy("z1-sgd");
    Path tag = output.resolve(source.tag());
    Files.createDirectories(tag);
    Files.writeString(tag.resolve("old"), "precious");
    Files.writeString(output.resolve("latest"), source.tag());
    source.damage(RANK_1, "0", bytes -> bytes.put(0, (byte) (bytes.get(0) ^ 1)));
    ReshardOptions overwrite = Resharding.options(source.directory(), output, 3);
    overwrite.setOverwrite(true);

    Throwable failure = catchThrowable(() -> Resharding.run(overwrite));
    Resharding.cause(failure, RefusedException.class);
    assertThat(tag.resolve("old")).hasContent("precious");
    assertThat(output.resolve("latest")).hasContent(source.tag());
  }
}
