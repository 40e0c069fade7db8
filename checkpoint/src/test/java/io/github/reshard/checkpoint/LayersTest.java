package io.github.reshard.checkpoint;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.testing.Architecture;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Which package of the module may know which, and which classes know each other. */
class LayersTest {
  private static final Architecture CHECKPOINT = Architecture.ofModuleOf(RefusedException.class);

  private static final List<String> LAYERS =
      List.of(
          "", // what is refused
          "pickle",
          "storage",
          "json",
          "torch",
          "state",
          "parallel",
          "safetensors",
          "plan",
          "format",
          "copy",
          "deepspeed",
          "zero12",
          "zero3",
          "dcp",
          "shards",
          "universal",
          "openstate", // is read as a Universal Checkpoint
          "weights",
          "planner",
          "follow");

  private static final Map<String, String> PAIRS =
      Map.ofEntries(
          Map.entry(
              "copy.Disagreement <-> copy.SliceCopier",
              "the copier's callback is its own type, and the report is told through it"),
          Map.entry(
              "copy.RowCopier <-> copy.SliceCopier",
              "rows are a slice's second way to be copied, with the copier's sums and buffers"),
          Map.entry(
              "deepspeed.CheckpointFiles <-> deepspeed.Discovery",
              "the files, and the one way to find them"),
          Map.entry(
              "deepspeed.OneStep <-> deepspeed.PlanBuilder",
              "the builder's rule that all files are of one step, with the builder's notes"),
          Map.entry(
              "format.TorchRecipe <-> format.TorchTarget",
              "a recipe answers with the file that it makes"),
          Map.entry(
              "pickle.PickleBatches <-> pickle.PickleWriter",
              "batches are the writer's steps for one collection"),
          Map.entry(
              "planner.DcpReader <-> planner.TemplateRun",
              "a template is read by the reader whose plan it fills"),
          Map.entry(
              "torch.StorageNode <-> torch.TensorNode",
              "a tensor names its storage; both read sizes by the tensor's rule"),
          Map.entry(
              "torch.TorchFile <-> torch.TorchFileReading", "the file, and the one way to read it"),
          Map.entry(
              "universal.FlatRank <-> universal.UniversalSource",
              "one model-parallel rank of the source, read with what all of its ranks share"),
          Map.entry(
              "universal.ShardedRank <-> universal.UniversalSource",
              "one model-parallel rank of the source, read with what all of its ranks share"),
          Map.entry(
              "zero12.FlatOutput <-> zero12.FlatPlanner",
              "the planner hands what it read to an output; goes with reader and writer"),
          Map.entry(
              "zero3.ShardedPlanner <-> zero3.StagePlanner",
              "one plans for the other's stage; goes with reader and writer"));

  @Test
  void aPackageKnowsOnlyWhatStandsLeftOfIt() {
    CHECKPOINT.assertLayers(LAYERS);
  }

  @Test
  void packagesFormNoCircle() {
    CHECKPOINT.assertNoCircles();
  }

  /**
   * The formats' own packages, of which none knows another but for those that are made of it:
   * shards are of ZeRO, and a Universal Checkpoint is read as ZeRO.
   */
  @ParameterizedTest
  @CsvSource({
    "dcp, zero12",
    "dcp, zero3",
    "weights, zero12",
    "weights, zero3",
    "weights, dcp",
    "weights, shards",
    "weights, universal",
    "universal, dcp",
    "universal, shards",
    "shards, dcp",
    "openstate, dcp",
    "openstate, shards",
    "follow, zero12",
    "follow, zero3",
  })
  void aFormatDoesNotKnowAnother(String from, String to) {
    CHECKPOINT.assertApart(from, to);
  }

  /** They turn one stage's files to the other's; with a reader and a writer they go. */
  @Test
  void zero3KnowsZero12OnlyWhereStagesAreTurned() {
    assertThat(CHECKPOINT.whoKnows("zero12", "zero3")).isEmpty();
    assertThat(CHECKPOINT.whoKnows("zero3", "zero12"))
        .as("those that still do; whoever cuts one takes it out here")
        .containsExactly("zero3.OtherWriter", "zero3.StagePlanner");
  }

  @Test
  void classesThatKnowEachOtherHaveAReason() {
    CHECKPOINT.assertPairs(PAIRS);
  }
}
