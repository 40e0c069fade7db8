package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Scratch;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.SortedMap;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** One job for several sizes makes for each what a job of its own makes. */
class SeveralSizesTest {
  private static final List<Integer> SIZES = List.of(1, 3);

  @TempDir Path temp;

  /** What is asked for besides. */
  record Asked(String checkpoint, String what, Consumer<ReshardOptions> options) {
    @Override
    public String toString() {
      return checkpoint + ", " + what;
    }
  }

  static List<Asked> asked() {
    return List.of(
        new Asked("z2-bf16-clip", "as saved", options -> {}),
        new Asked("z2-bf16-clip", "ZeRO-3", options -> options.setTargetStage(3)),
        new Asked("z3-bf16-subgroups", "as saved", options -> {}),
        new Asked("z2-bf16-clip", "universal", options -> options.setOutputFormat("universal")),
        new Asked(
            "tp2-z1",
            "four tensor-parallel ranks",
            options -> {
              options.setTargetTensorParallelSize(4);
              options.setKvHeads(0);
            }));
  }

  private ReshardOptions options(Asked asked, String output, String sizes) {
    ReshardOptions options =
        Resharding.options(GoldenCase.of(asked.checkpoint()).source(), temp.resolve(output), 1);
    options.setTargetWorldSize(null);
    options.as(CommandOptions.class).setTargetWorldSizes(sizes);
    asked.options().accept(options);
    return options;
  }

  @ParameterizedTest
  @MethodSource("asked")
  void eachIsWhatAJobOfItsOwnMakes(Asked asked) {
    List<ReshardReport> reports =
        ReshardPipeline.runAll(options(asked, "all", "1,3"), Resharding.SILENT);

    assertThat(reports).hasSize(SIZES.size());
    for (int ranks : SIZES) {
      ReshardOptions alone = options(asked, "alone-" + ranks, null);
      alone.setTargetWorldSize(ranks);
      Resharding.run(alone);
      assertThat(contents(temp.resolve("all/world-" + ranks)))
          .isEqualTo(contents(temp.resolve("alone-" + ranks)));
    }
  }

  private static SortedMap<String, String> contents(Path directory) {
    SortedMap<String, String> contents = Scratch.contents(directory);
    contents.keySet().removeIf(path -> path.endsWith("reshard-manifest.json"));
    assertThat(contents).isNotEmpty();
    return contents;
  }

  @Test
  void whatHasNoSizeIsRefused() {
    ReshardOptions options =
        options(
            new Asked("z2-bf16-clip", "dcp", asked -> asked.setOutputFormat("dcp")), "out", "1,3");

    assertThatThrownBy(() -> ReshardPipeline.runAll(options, Resharding.SILENT))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("is the same for any number of ranks");
    assertThat(temp.resolve("out")).matches(Files::notExists);
  }
}
