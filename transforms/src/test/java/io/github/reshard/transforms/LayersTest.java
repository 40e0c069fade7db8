package io.github.reshard.transforms;

import io.github.reshard.testing.Architecture;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

/** One package, and which of its classes know each other. */
class LayersTest {
  private static final Architecture TRANSFORMS = Architecture.ofModuleOf(Reshard.class);

  private static final Map<String, String> PAIRS =
      Map.ofEntries(
          Map.entry(
              "Coders <-> SliceCopyCoder",
              "the list of coders has the slices' one, which is made of those for its parts"),
          Map.entry(
              "CompareRun <-> CompareTensors",
              "a step of the transform, with the transform's types"),
          Map.entry(
              "CompareTensors <-> PairTensors",
              "a step of the transform, with the transform's types"));

  @Test
  void thereIsOnePackage() {
    TRANSFORMS.assertLayers(List.of(""));
  }

  @Test
  void noFormatIsNamedOutsideOfItsPackage() {
    TRANSFORMS.assertKnowNoFormat(Map.of());
  }

  @Test
  void classesThatKnowEachOtherHaveAReason() {
    TRANSFORMS.assertPairs(PAIRS);
  }
}
