package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.testing.Reassembly;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Directories that hold more or other files than today's DeepSpeed writes for one save. */
class FieldTest {
  private static final Path FIELD = Path.of(System.getProperty("reshard.testdata"), "field");
  private static final String OPTIMIZER = "zero_pp_rank_%d_mp_rank_%02d_optim_states.pt";

  @TempDir Path temp;

  private static void requireSame(Map<String, byte[]> expected, Map<String, byte[]> found) {
    assertThat(found.keySet()).isEqualTo(expected.keySet()).isNotEmpty();
    expected.forEach((name, bytes) -> assertThat(found.get(name)).as(name).isEqualTo(bytes));
  }

  private static List<String> names(Path directory) throws IOException {
    try (var files = Files.list(directory)) {
      return files.map(file -> file.getFileName().toString()).sorted().toList();
    }
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 5})
  void ranksThatAreNoMoreAreLeftOut(int worldSize) throws IOException {
    Path source = FIELD.resolve("stale-ranks-z2/source");
    Path cleaned = Scratch.copyOf(source, temp.resolve("cleaned"));
    for (int rank : new int[] {2, 3}) {
      Files.delete(cleaned.resolve("pytorch_model").resolve(OPTIMIZER.formatted(rank, 0)));
    }
    Path output = temp.resolve("output");

    ReshardPlan plan = WithoutBeam.reshard(source, output, worldSize);

    Reassembly expected = Reassembly.of(cleaned, "pytorch_model");
    Reassembly found = Reassembly.of(output, "pytorch_model");
    requireSame(expected.tensors(), found.tensors());
    requireSame(expected.replicated(), found.replicated());
    assertThat(plan.notes())
        .anyMatch(
            note ->
                note.contains("left over from an earlier save")
                    && note.contains(OPTIMIZER.formatted(2, 0))
                    && note.contains(OPTIMIZER.formatted(3, 0)));
    assertThat(names(output.resolve("pytorch_model")))
        .filteredOn(name -> name.endsWith("optim_states.pt"))
        .hasSize(worldSize);
  }

  @Test
  void aRankTooManyThatBelongsToTheSaveIsRefused() throws IOException {
    Path input = Scratch.copyOf(FIELD.resolve("stale-ranks-z2/source"), temp.resolve("input"));
    Path tag = input.resolve("pytorch_model");
    // Of the two that are left over, one goes and a copy of rank 1 of two takes its name.
    Files.delete(tag.resolve(OPTIMIZER.formatted(3, 0)));
    Files.delete(tag.resolve(OPTIMIZER.formatted(2, 0)));
    Files.copy(tag.resolve(OPTIMIZER.formatted(1, 0)), tag.resolve(OPTIMIZER.formatted(2, 0)));

    assertThatThrownBy(() -> WithoutBeam.reshard(input, temp.resolve("output"), 3))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(OPTIMIZER.formatted(2, 0))
        .hasMessageContaining("is a file too many")
        .hasMessageContaining("says it is of 2");
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 4})
  void sequenceParallelRanksAreRanksOfOnePartitioning(int worldSize) throws IOException {
    Path source = FIELD.resolve("sequence-parallel-0.18.2-z2/source");
    Path renamed = Scratch.copyOf(source, temp.resolve("renamed"));
    Path tag = renamed.resolve("global_step3");
    for (int rank : new int[] {1, 3}) {
      Files.move(
          tag.resolve(OPTIMIZER.formatted(rank, 1)), tag.resolve(OPTIMIZER.formatted(rank, 0)));
    }
    Path output = temp.resolve("output");

    WithoutBeam.reshard(source, output, worldSize);

    requireSame(
        Reassembly.of(renamed, "global_step3").tensors(),
        Reassembly.of(output, "global_step3").tensors());
    assertThat(names(output.resolve("global_step3")))
        .noneMatch(name -> name.contains("mp_rank_01"));
  }

  @Test
  void halfOfATensorParallelRunIsNotTakenForASequence() throws IOException {
    Path input =
        Scratch.copyOf(
            FIELD.resolveSibling("corpus").resolve("tp2-z1/source"), temp.resolve("input"));
    Path tag = input.resolve("global_step3");
    String prefix = Files.exists(tag.resolve("bf16_" + OPTIMIZER.formatted(0, 0))) ? "bf16_" : "";
    Files.delete(tag.resolve("mp_rank_01_model_states.pt"));
    Files.delete(tag.resolve(prefix + OPTIMIZER.formatted(1, 0)));
    Files.delete(tag.resolve(prefix + OPTIMIZER.formatted(0, 1)));

    assertThatThrownBy(() -> WithoutBeam.reshard(input, temp.resolve("output"), 2))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("mp ranks [0], optimizer files of [0, 1]");
  }

  @Test
  void aLayerThatNothingTrainsIsCarriedAndSaid() throws IOException {
    Path input =
        Scratch.copyOf(
            FIELD.resolveSibling("corpus").resolve("pp2-z1/source"), temp.resolve("input"));
    Path tag = input.resolve("global_step3");
    Files.copy(tag.resolve("layer_05-model_states.pt"), tag.resolve("layer_77-model_states.pt"));
    Scratch.rename(tag.resolve("layer_77-model_states.pt"), "layer_77-model_states");

    ReshardPlan plan = WithoutBeam.reshard(input, temp.resolve("output"), 3);

    assertThat(temp.resolve("output/global_step3/layer_77-model_states.pt"))
        .hasSameBinaryContentAs(tag.resolve("layer_77-model_states.pt"));
    assertThat(plan.notes())
        .filteredOn(note -> note.startsWith("no optimizer trains anything in "))
        .singleElement()
        .asString()
        .contains("layer_77-model_states.pt")
        .doesNotContain("layer_05-model_states.pt");
  }
}
