package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.parallel.ExpertTarget;
import io.github.reshard.checkpoint.parallel.PipelineMethods;
import io.github.reshard.checkpoint.parallel.PipelineScript;
import io.github.reshard.checkpoint.parallel.PipelineTarget;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/** Other expert-parallel sizes and other stages of a pipeline than the source's. */
class DegreesTest {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));
  private static final Path PIPELINE = TESTDATA.resolve("corpus/pp2-z1/source");
  private static final Path TIED = TESTDATA.resolve("degrees/pipeline-tied");
  private static final Path EXPERTS = TESTDATA.resolve("corpus/moe-z2-ep2/source");

  @TempDir Path temp;

  private static TargetDegrees experts(int size) {
    return new TargetDegrees(
        Optional.empty(),
        Optional.of(new ExpertTarget(size, OptionalInt.empty())),
        Optional.empty());
  }

  private static TargetDegrees stages(int stages, String method) {
    return new TargetDegrees(
        Optional.empty(),
        Optional.empty(),
        Optional.of(
            new PipelineTarget(
                stages,
                Optional.ofNullable(method)
                    .map(
                        text ->
                            text.matches("[\\d,]+")
                                ? PipelineMethods.parts(text)
                                : PipelineMethods.of(text)),
                PipelineScript.NOT_SAID)));
  }

  @Test
  void expertsAreWhatDeepSpeedSavesAtThatSize() {
    Path golden = TESTDATA.resolve("degrees/moe-z2-split");
    Path output = temp.resolve("output");
    WithoutBeam.reshard(golden.resolve("source"), output, 4, experts(4));

    assertThat(CheckpointComparison.with(golden.resolve("reference-4-ep4")).firstDifference(output))
        .isEmpty();
  }

  static Stream<Arguments> mixtures() {
    return Stream.of(
        arguments("corpus/moe-z2-ep2", 4, 2, 4, 4),
        arguments("corpus/moe-z2-ep2", 4, 2, 8, 1),
        arguments("moe/moe-z1-bf16-fp32acc", 4, 2, 4, 4),
        arguments("moe/moe-z1-fp32-ep4", 4, 4, 6, 2),
        arguments("moe/moe-z2-datafirst", 4, 2, 3, 1),
        arguments("moe/moe-z2-ep1", 3, 1, 4, 2),
        arguments("moe/moe-z2-fp16-roundrobin", 4, 2, 5, 1),
        arguments("field/moe-deepspeed-0.9.5", 4, 2, 4, 1),
        arguments("field/moe-deepspeed-0.16.9", 4, 2, 4, 4));
  }

  @ParameterizedTest
  @MethodSource("mixtures")
  void toAnotherExpertParallelSizeAndBackIsTheSource(
      String name, int ranks, int size, int otherRanks, int other) {
    Path source = TESTDATA.resolve(name).resolve("source");
    Path there = temp.resolve("there");
    Path back = temp.resolve("back");
    WithoutBeam.reshard(source, there, otherRanks, experts(other));
    WithoutBeam.reshard(there, back, ranks, experts(size));

    assertThat(CheckpointComparison.with(source).firstDifference(back)).isEmpty();
  }

  /** One expert a rank and group: of the script's max_group_size nothing is left to be seen. */
  @Test
  void groupsWhoseMaximumIsNotToBeToldAreRefused() {
    Path there = temp.resolve("there");
    WithoutBeam.reshard(TESTDATA.resolve("moe/moe-z2-fp32-split/source"), there, 4, experts(4));

    assertThatThrownBy(() -> WithoutBeam.reshard(there, temp.resolve("back"), 4, experts(2)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("nothing says whether they are one that max_group_size divided");
  }

  @Test
  void aSizeThatDoesNotDivideIsRefusedWithThoseThatDo() {
    assertThatThrownBy(() -> WithoutBeam.reshard(EXPERTS, temp.resolve("o"), 4, experts(3)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("What fits is [1, 2, 4]");
  }

  @Test
  void anExpertWhoseFileIsMissingIsRefused() throws IOException {
    Path input = temp.resolve("input");
    Scratch.copyOf(EXPERTS, input);
    Files.delete(input.resolve("global_step3/layer_0_expert_3_mp_rank_00_model_states.pt"));

    assertThatThrownBy(() -> WithoutBeam.reshard(input, temp.resolve("o"), 4, experts(4)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("layer_0_expert_3");
  }

  @Test
  void expertsThatWereExchangedAreRefused() throws IOException {
    Path input = temp.resolve("input");
    Scratch.copyOf(EXPERTS, input);
    Path one = input.resolve("global_step3/layer_0_expert_1_mp_rank_00_model_states.pt");
    Path two = input.resolve("global_step3/layer_0_expert_2_mp_rank_00_model_states.pt");
    Files.move(one, temp.resolve("kept"));
    Files.move(two, one);
    Files.move(temp.resolve("kept"), two);

    assertThatThrownBy(() -> WithoutBeam.reshard(input, temp.resolve("o"), 4, experts(1)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("layer_0_expert");
  }

  @ParameterizedTest
  @MethodSource("pipelines")
  void toOtherStagesAndBackIsTheSource(int ranks, int stages, String method) {
    Path there = temp.resolve("there");
    Path back = temp.resolve("back");
    WithoutBeam.reshard(PIPELINE, there, ranks, stages(stages, method));
    WithoutBeam.reshard(there, back, 2, stages(2, "0,3,6"));

    assertThat(CheckpointComparison.with(PIPELINE).firstDifference(back)).isEmpty();
  }

  static Stream<Arguments> pipelines() {
    return Stream.of(
        arguments(2, 1, null),
        arguments(3, 3, "uniform"),
        arguments(1, 3, "parameters"),
        arguments(4, 4, "0,1,2,5,6"));
  }

  /** What DeepSpeed saves that loaded it at these stages. */
  @ParameterizedTest
  @CsvSource({"reference-1-stage, 1, ", "reference-3-stages, 3, '0,3,5,7'"})
  void stagesThatShareALayerAreWhatDeepSpeedSaves(String reference, int stages, String parts) {
    Path there = temp.resolve("there");
    Path back = temp.resolve("back");
    WithoutBeam.reshard(TIED.resolve("source"), there, 1, stages(stages, parts));
    WithoutBeam.reshard(there, back, 1, stages(2, "0,4,7"));

    assertThat(CheckpointComparison.with(TIED.resolve(reference)).firstDifference(there)).isEmpty();
    assertThat(CheckpointComparison.with(TIED.resolve("source")).firstDifference(back)).isEmpty();
  }

  @Test
  void whichLayersAStageHasIsNeverGuessed() {
    assertThatThrownBy(() -> WithoutBeam.reshard(PIPELINE, temp.resolve("o"), 2, stages(3, null)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("--pipelineMethod=parameters");
  }

  @Test
  void aMethodThatDoesNotGiveTheSourcesStagesIsRefused() {
    Path uneven = temp.resolve("uneven");
    WithoutBeam.reshard(PIPELINE, uneven, 2, stages(2, "0,1,6"));

    assertThatThrownBy(
            () -> WithoutBeam.reshard(uneven, temp.resolve("o"), 2, stages(3, "uniform")))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("does not give the 2 stages that the checkpoint has");
  }

  @Test
  void stagesThatEndBeforeTheLayersDoAreRefused() {
    assertThatThrownBy(
            () -> WithoutBeam.reshard(PIPELINE, temp.resolve("o"), 2, stages(2, "0,2,5")))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("whose last layer that is known is 5");
  }

  @Test
  void whatIsNoPipelineHasNoStages() {
    assertThatThrownBy(() -> WithoutBeam.reshard(EXPERTS, temp.resolve("o"), 4, stages(1, null)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("has no files of layers");
  }

  @Test
  void withoutExpertsThereIsNothingToDivide() {
    assertThatThrownBy(() -> WithoutBeam.reshard(PIPELINE, temp.resolve("o"), 2, experts(2)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("has no experts");
  }
}
