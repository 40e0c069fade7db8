package io.github.reshard.checkpoint.parallel;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.json.Json;
import io.github.reshard.checkpoint.json.JsonAsPython;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.testing.Corpus;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * What DeepSpeed 0.19.8 itself saved of one training state at several numbers of tensor-parallel
 * ranks (testdata/tensor/README.md): the cuts that follow from the files of one are those of the
 * files of another, to the box where {@code affine_map} says it.
 */
class TensorGoldenTest {
  private static final Path ROOT = Path.of(System.getProperty("reshard.testdata"), "tensor");

  private record Saved(List<PickledValue> models) {
    static Saved of(String name, String size, int ranks) throws IOException {
      List<PickledValue> models = new ArrayList<>();
      for (int rank = 0; rank < ranks; rank++) {
        String file = "mp_rank_%02d_model_states.pt".formatted(rank);
        try (RangedFile open =
            Corpus.open(ROOT.resolve(name).resolve(size).resolve("global_step3").resolve(file))) {
          models.add(PickledValue.root(file, TorchFile.read(open).parse().root()));
        }
      }
      return new Saved(models);
    }

    Map<String, List<List<Long>>> shapes() {
      Map<String, List<List<Long>>> shapes = new LinkedHashMap<>();
      for (PickledValue model : models) {
        for (PickledValue.Entry entry : model.get("param_shapes").items().get(0).children()) {
          shapes.computeIfAbsent(entry.key(), n -> new ArrayList<>()).add(entry.value().asSize());
        }
      }
      return shapes;
    }

    TensorRules rules() {
      return TensorRules.ofCheckpoint(models.get(0).get("universal_checkpoint_info"));
    }
  }

  @ParameterizedTest
  @CsvSource({
    "columns-z1, tp2dp2, 2, tp1dp3, 1, 0",
    "columns-z1, tp2dp2, 2, tp3dp1, 3, 0",
    "columns-z1, tp2dp2, 2, tp4dp1, 4, 0",
    "columns-z1, tp3dp1, 3, tp4dp1, 4, 0",
    "columns-z1, tp4dp1, 4, tp2dp2, 2, 0",
    "llama-z1, tp2dp1, 2, tp1dp2, 1, 4",
    "llama-z1, tp2dp1, 2, tp3dp1, 3, 4",
    "llama-z1, tp2dp1, 2, tp4dp1, 4, 4",
    "llama-z1, tp3dp1, 3, tp2dp1, 2, 4",
    "llama-z1, tp3dp1, 3, tp4dp1, 4, 4",
    "llama-tied-z2, tp2dp1, 2, tp4dp1, 4, 4",
    "llama-tied-z2, tp4dp1, 4, tp1dp2, 1, 4",
    "qkv-z2, tp2dp1, 2, tp5dp1, 5, 0",
    "qkv-z2, tp5dp1, 5, tp2dp1, 2, 0",
    "qkv-z2, tp5dp1, 5, tp1dp2, 1, 0",
    "cut-z1, tp2dp1, 2, tp4dp1, 4, -1",
    "cut-z1, tp4dp1, 4, tp1dp2, 1, -1",
  })
  void theTargetsCutsAreThoseThatDeepSpeedSaved(
      String name, String from, int ranks, String to, int others, int heads) throws IOException {
    Saved source = Saved.of(name, from, ranks);
    Saved target = Saved.of(name, to, others);
    boolean megatron = heads < 0;
    Division division =
        megatron ? new Division.Even() : new Division.AutoTp(Division.Heads.of(heads), 1);
    TensorDegree degree =
        new TensorDegree(
            name,
            source.rules(),
            division,
            others,
            megatron ? OptionalInt.of(4) : OptionalInt.empty());

    Map<String, List<List<Long>>> expected = target.shapes();
    assertThat(source.shapes().keySet()).containsExactlyElementsOf(expected.keySet());
    source
        .shapes()
        .forEach(
            (parameter, shapes) -> {
              Recut recut = degree.recut(parameter, shapes);
              assertThat(recut.target())
                  .extracting(LocalTensor::shape)
                  .isEqualTo(expected.get(parameter));
              if (others > 1) {
                Optional<AffineMap> exact = target.rules().affine(parameter, others);
                assertThat(exact.isPresent()).isEqualTo(!megatron);
                exact.ifPresent(map -> assertThat(recut.target()).isEqualTo(map.locals()));
              }
            });
  }

  @ParameterizedTest
  @CsvSource({
    "llama, llama",
    "llama, mistral",
    "llama, qwen2",
    "llama, qwen3",
    "llama, gemma2",
    "opt, opt",
    "gpt-neox, gpt_neox",
    "bloom, bloom",
  })
  void theRulesThatComeWithTheProgramGiveWhatAutoTpDoes(String rules, String family)
      throws IOException {
    ByteBuffer json = ByteBuffer.wrap(Files.readAllBytes(ROOT.resolve("families.json")));
    PickledValue model =
        PickledValue.root("families.json", JsonAsPython.of(Json.parse("families.json", json)))
            .get("families")
            .get(family);
    RuleFile file = RuleFile.named(rules);
    TensorRules said = TensorRules.ofCheckpoint(model.get("info"));

    for (PickledValue.Entry entry : model.get("full").children()) {
      List<Long> full = entry.value().asSize();
      List<List<Long>> onRanks =
          model.get("ranks").items().stream().map(rank -> rank.get(entry.key()).asSize()).toList();
      Recut cut = degree(file.rules(), 2).recut(entry.key(), List.of(full));
      assertThat(cut.target()).extracting(LocalTensor::shape).isEqualTo(onRanks);
      Recut joined = degree(file.rules(), 1).recut(entry.key(), onRanks);
      assertThat(joined).isEqualTo(degree(said, 1).recut(entry.key(), onRanks));
      assertThat(joined.shape()).isEqualTo(full);
    }
  }

  private static TensorDegree degree(TensorRules rules, int ranks) {
    return new TensorDegree(
        "ckpt", rules, new Division.AutoTp(Division.Heads.of(2), 1), ranks, OptionalInt.empty());
  }
}
