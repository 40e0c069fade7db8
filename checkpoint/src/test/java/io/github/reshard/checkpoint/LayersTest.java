package io.github.reshard.checkpoint;

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
          "template",
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
              "deepspeed.CheckpointFacts <-> deepspeed.FactsReading",
              "the facts, and the one way to read them"),
          Map.entry(
              "deepspeed.CheckpointFiles <-> deepspeed.Discovery",
              "the files, and the one way to find them"),
          Map.entry(
              "format.ModelPart <-> format.OptimizerValues",
              "a part says how its optimizer files are read; if they can be shared, the part is"
                  + " asked"),
          Map.entry(
              "format.TorchRecipe <-> format.TorchTarget",
              "a recipe answers with the file that it makes"),
          Map.entry(
              "pickle.PickleBatches <-> pickle.PickleWriter",
              "batches are the writer's steps for one collection"),
          Map.entry(
              "torch.StorageNode <-> torch.TensorNode",
              "a tensor names its storage; both read sizes by the tensor's rule"),
          Map.entry(
              "torch.TorchFile <-> torch.TorchFileReading", "the file, and the one way to read it"),
          Map.entry(
              "zero12.EditedFlat <-> zero12.SavedFlat",
              "a rank's own files, and the one way to edit them"),
          Map.entry(
              "zero3.EditedSharded <-> zero3.SavedSharded",
              "a rank's own files, and the one way to edit them"),
          Map.entry(
              "universal.FlatRank <-> universal.UniversalSource",
              "one model-parallel rank of the source, read with what all of its ranks share"),
          Map.entry(
              "universal.ShardedRank <-> universal.UniversalSource",
              "one model-parallel rank of the source, read with what all of its ranks share"));

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
    "zero12, zero3",
    "zero3, zero12",
    "dcp, zero12",
    "dcp, zero3",
    "template, zero12",
    "template, zero3",
    "template, dcp",
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

  @Test
  void noFormatIsNamedOutsideOfItsPackage() {
    CHECKPOINT.assertKnowNoFormat(
        Map.of("planner.Formats", "knows all formats, so that nothing else has to"));
  }

  @Test
  void classesThatKnowEachOtherHaveAReason() {
    CHECKPOINT.assertPairs(PAIRS);
  }
}
