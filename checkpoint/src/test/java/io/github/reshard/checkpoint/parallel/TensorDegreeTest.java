package io.github.reshard.checkpoint.parallel;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.json.Json;
import io.github.reshard.checkpoint.json.JsonAsPython;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.OptionalInt;
import java.util.Random;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class TensorDegreeTest {
  private static final Division WITH_FOUR_HEADS = new Division.AutoTp(Division.Heads.of(4), 1);
  private static final Division NO_HEADS_SAID = new Division.AutoTp(Division.Heads.UNKNOWN, 1);

  private static PickledValue info(String json) {
    ByteBuffer bytes = ByteBuffer.wrap(json.replace('\'', '"').getBytes(StandardCharsets.UTF_8));
    return new PickledValue(
        "mp_rank_00_model_states.pt",
        "universal_checkpoint_info",
        JsonAsPython.of(Json.parse("info", bytes)));
  }

  private static TensorDegree degree(String info, Division division, int ranks) {
    return new TensorDegree(
        "ckpt", TensorRules.ofCheckpoint(info(info)), division, ranks, OptionalInt.empty());
  }

  private static TensorDegree even(String info, int ranks) {
    return degree(info, new Division.Even(), ranks);
  }

  private static List<List<Long>> shapes(List<LocalTensor> locals) {
    return locals.stream().map(LocalTensor::shape).toList();
  }

  private static List<List<Long>> twice(Long... shape) {
    return Collections.nCopies(2, List.of(shape));
  }

  @Test
  void whatNoPatternNamesLiesOneBelowTheOther() {
    Recut recut = even("{}", 4).recut("fc.weight", twice(6L, 5L));

    assertThat(recut.shape()).containsExactly(12L, 5L);
    assertThat(shapes(recut.target())).isEqualTo(Collections.nCopies(4, List.of(3L, 5L)));
  }

  @Test
  void rowParallelWeightsAreCutInColumns() {
    Recut recut =
        even("{'parameter_with_row_parallelism_patterns': ['out']}", 1)
            .recut("out.weight", twice(6L, 5L));

    assertThat(recut.shape()).containsExactly(6L, 10L);
    assertThat(shapes(recut.target())).containsExactly(List.of(6L, 10L));
  }

  @Test
  void aFileOfRulesMustNameEveryParameter() {
    TensorDegree degree =
        new TensorDegree(
            "ckpt", RuleFile.named("llama").rules(), WITH_FOUR_HEADS, 2, OptionalInt.empty());

    assertThatThrownBy(() -> degree.recut("model.score.weight", List.of(List.of(4L, 8L))))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("ckpt, parameter model.score.weight")
        .hasMessageContaining("no rule of llama.json")
        .hasMessageContaining("tp_replicated_parameter_patterns");
  }

  @Test
  void headsDecideWhereAttentionIsCut() {
    String name = "model.layers.0.self_attn.q_proj.weight";

    Recut recut = degree("{}", WITH_FOUR_HEADS, 3).recut(name, twice(16L, 5L));

    assertThat(shapes(recut.target()))
        .containsExactly(List.of(16L, 5L), List.of(8L, 5L), List.of(8L, 5L));
    assertThatThrownBy(() -> degree("{}", NO_HEADS_SAID, 3).recut(name, twice(16L, 5L)))
        .hasMessageContaining("--kvHeads");
    assertThatThrownBy(() -> degree("{}", NO_HEADS_SAID, 4).recut(name, twice(16L, 5L)))
        .as("4 ranks have a head each only if there are that many")
        .hasMessageContaining("--kvHeads");
  }

  @Test
  void headsNeedNotBeKnownWhereTheyMakeNoDifference() {
    TensorDegree half = degree("{}", NO_HEADS_SAID, 2);
    String attention = "model.layers.0.self_attn.q_proj.weight";

    assertThat(shapes(half.recut(attention, Collections.nCopies(4, List.of(8L, 5L))).target()))
        .isEqualTo(twice(16L, 5L));
    assertThat(
            shapes(
                half.recut("model.layers.0.mlp.up_proj.weight", List.of(List.of(7L, 5L))).target()))
        .containsExactly(List.of(4L, 5L), List.of(3L, 5L));
  }

  @Test
  void headsThatDoNotGiveTheSourcesCutsAreRefused() {
    List<List<Long>> saved = List.of(List.of(11L, 5L), List.of(11L, 5L), List.of(10L, 5L));

    assertThatThrownBy(
            () -> degree("{}", WITH_FOUR_HEADS, 2).recut("self_attn.q_proj.weight", saved))
        .hasMessageContaining("as [16, 8, 8], and it was cut as [11, 11, 10]");
  }

  @Test
  void moreRanksThanHeadsAreRefused() {
    assertThatThrownBy(
            () -> degree("{}", WITH_FOUR_HEADS, 5).recut("self_attn.q_proj.weight", twice(16L, 5L)))
        .hasMessageContaining("choose a smaller --targetTensorParallelSize");
  }

  @Test
  void fusedMatricesAreJoinedEachByItself() {
    String info =
        """
{'universal_checkpoint_version': 0.4,
 'parameter_with_sub_params': [{'patterns': ['qkv'], 'shape': [[8, 4, 4], 3], 'partition_dim': 0}],
 'sub_param_shard_widths': {'qkv': [[4, 4], [2, 2], [2, 2]]}}\
""";

    Recut recut = even(info, 1).recut("qkv.weight", twice(8L, 3L));

    assertThat(recut.shape()).containsExactly(16L, 3L);
    assertThat(recut.source().get(1).blocks())
        .extracting(block -> block.full().offsets().get(0))
        .containsExactly(4L, 10L, 14L);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "[[4, 4], [2, 2]]         | 3 matrices are fused in it, and widths are given of 2",
        "[[4, 4], [2, 1], [2, 2]] | the widths [2, 1] of a fused matrix of 4",
        "[[5, 3], [2, 2], [2, 2]] | say that rank 0 has 9, and it has 8",
        "[[8], [4], [4]]          | are not those of 2 ranks",
      })
  void widthsThatAreNotTheSourcesAreRefused(String widths, String problem) {
    String info =
        "{'parameter_with_sub_params': [{'patterns': ['qkv'], 'shape': [[8, 4, 4], 3],"
            + " 'partition_dim': 0}],"
            + "'sub_param_shard_widths': {'qkv': %s}}".formatted(widths);

    assertThatThrownBy(() -> even(info, 1).recut("qkv.weight", twice(8L, 3L)))
        .hasMessageContaining(problem);
  }

  @Test
  void infoBeforeWidthsWereRecordedIsReadWhereItIsEven() {
    String three =
        "{'parameter_with_sub_params': [{'patterns': ['qkv'], 'shape': [3, -1], 'partition_dim':"
            + " 0}]}";

    assertThat(shapes(even(three, 3).recut("qkv.weight", twice(9L, 2L)).target()))
        .isEqualTo(Collections.nCopies(3, List.of(6L, 2L)));
    String odd = three.replace("[3, -1]", "[[3, 5], -1]");
    assertThatThrownBy(() -> even(odd, 1).recut("qkv.weight", twice(4L, 2L)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("a fused matrix of 3 is not cut evenly among 2 ranks");
  }

  @Test
  void gateAndUpAreTwoMatrices() {
    Recut recut =
        even("{'parameter_with_2_sub_params_cat_dim_0': ['h_to_4h']}", 1)
            .recut("h_to_4h.weight", twice(6L, 2L));

    assertThat(recut.source().get(1).blocks())
        .extracting(block -> block.full().offsets().get(0))
        .containsExactly(3L, 9L);
  }

  @Test
  void rowsBehindTheVocabularyBelongToNobody() {
    String info = "{'vocabulary_parameter_patterns': ['emb'], 'original_vocab_size': 37}";
    TensorDegree one =
        new TensorDegree(
            "ckpt",
            TensorRules.ofCheckpoint(info(info)),
            new Division.Even(),
            1,
            OptionalInt.of(4));

    Recut recut = one.recut("emb.weight", twice(20L, 3L));

    assertThat(recut.shape()).containsExactly(37L, 3L);
    assertThat(recut.source().get(1).blocks().get(0).full().sizes()).containsExactly(17L, 3L);
    assertThat(recut.target().get(0).shape()).containsExactly(40L, 3L);
    assertThat(recut.target().get(0).blocks().get(0).full().sizes()).containsExactly(37L, 3L);
    assertThatThrownBy(() -> even(info, 1).recut("emb.weight", twice(20L, 3L)))
        .hasMessageContaining("at 1 ranks it would be one of [38, 40] rows")
        .hasMessageContaining("--vocabularyMultiple");
  }

  @Test
  void severalPatternsForAParameterAreRefused() {
    assertThatThrownBy(
            () ->
                even(
                        "{'parameter_with_row_parallelism_patterns': ['out'],"
                            + " 'tp_replicated_parameter_patterns': ['ou']}",
                        1)
                    .recut("out.weight", twice(2L, 2L)))
        .hasMessageContaining("out.weight is named by several patterns")
        .hasMessageContaining("tp_replicated_parameter_patterns ou");
  }

  @Test
  void aPatternNeedNotReachTheEndOfAName() {
    assertThat(
            even("{'tp_replicated_parameter_patterns': ['ln']}", 3)
                .recut("ln.weight", twice(5L))
                .sharing())
        .isEqualTo(Recut.Sharing.REPLICATED);
    assertThat(
            even("{'tp_replicated_parameter_patterns': ['n.weight']}", 2)
                .recut("ln.weight", twice(4L))
                .sharing())
        .isEqualTo(Recut.Sharing.CUT);
  }

  @Test
  void whatDeepSpeedCannotJoinIsRefusedWithItsReason() {
    assertThatThrownBy(
            () ->
                even("{'autotp_unsupported_parameter_patterns': {'w': 'it is odd'}}", 1)
                    .recut("w", twice(2L, 2L)))
        .hasMessageContaining("w cannot be joined, says DeepSpeed: it is odd.");
  }

  @Test
  void replicatedParametersOfDifferentShapesAreRefused() {
    assertThatThrownBy(
            () ->
                even("{'tp_replicated_parameter_patterns': ['ln']}", 1)
                    .recut("ln", List.of(List.of(3L), List.of(2L))))
        .hasMessageContaining("they have shapes [[3], [2]]");
  }

  private static final String ROWS_OF_TWO =
      """
{'affine_map': {'version': 1, 'params': {'w': {'logical_shape': [4, 3], 'ranks': {
  '0': {'shard_shape': [2, 3], 'pieces': [{'shape': [2, 3], 'source': [0, [3, 1]], 'dest': [0, [3, 1]], 'locations': [0]}]},
  '1': {'shard_shape': [2, 3], 'pieces': [{'shape': [2, 3], 'source': [6, [3, 1]], 'dest': [0, [3, 1]], 'locations': [1]}]}}}}}}\
""";

  @Test
  void anAffineMapThatThePatternsGiveAsWellIsCutLikeThem() {
    assertThat(shapes(even(ROWS_OF_TWO, 4).recut("w", twice(2L, 3L)).target()))
        .isEqualTo(Collections.nCopies(4, List.of(1L, 3L)));
  }

  @Test
  void anAffineMapWinsAndDoesNotTellHowAnotherNumberIsCut() {
    String swapped =
        ROWS_OF_TWO
            .replace("[6, [3, 1]]", "[7, [3, 1]]")
            .replace("[0, [3, 1]], 'dest'", "[6, [3, 1]], 'dest'")
            .replace("[7, [3, 1]]", "[0, [3, 1]]");

    Recut recut = even(swapped, 1).recut("w", twice(2L, 3L));

    assertThat(recut.source().get(0).blocks().get(0).full().offsets()).containsExactly(2L, 0L);
    assertThatThrownBy(() -> even(swapped, 4).recut("w", twice(2L, 3L)))
        .hasMessageContaining("no pattern gives the same")
        .hasMessageContaining("--targetTensorParallelSize=1");
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "'locations': [1]  | 'locations': [1], 'scale': 0.5 | hold this parameter scaled",
        "[6, [3, 1]]       | [6, [6, 1]]                    | is no box of a tensor",
        "[6, [3, 1]]       | [7, [3, 1]]                    | is no box of a tensor",
        "[6, [3, 1]]       | [9, [3, 1]]                    | is no box of a tensor",
        "[6, [3, 1]]       | [3, [3, 1]]                    | some of its ranks share a part",
        "'version': 1      | 'version': 2                   | up to 1 is understood",
        "'1': {            | '2': {                         | expected rank 1, found 2",
      })
  void brokenAffineMapsAreRefused(String from, String to, String problem) {
    String broken = ROWS_OF_TWO.replace(from, to);
    assertThat(broken).isNotEqualTo(ROWS_OF_TWO);

    assertThatThrownBy(() -> even(broken, 1).recut("w", twice(2L, 3L)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(problem);
  }

  @Test
  void anAffineMapOfOtherShapesIsRefused() {
    assertThatThrownBy(() -> even(ROWS_OF_TWO, 1).recut("w", twice(3L, 2L)))
        .hasMessageContaining("affine_map says shapes [[2, 3], [2, 3]], param_shapes");
  }

  /** Cut, joined and cut again: the same boxes, whatever the rule and the numbers of ranks. */
  @Property(tries = 500)
  void toOtherRanksAndBackIsTheSame(
      @ForAll Random random,
      @ForAll @IntRange(min = 1, max = 6) int ranks,
      @ForAll @IntRange(min = 1, max = 6) int others) {
    int heads = 6 + random.nextInt(3);
    long attention = (long) heads * (1 + random.nextInt(3));
    String[] names = {"attn.q.weight", "mlp.up.weight", "out.weight", "qkv.weight", "ln.weight"};
    String name = names[random.nextInt(names.length)];
    String info =
        """
{'parameter_with_row_parallelism_patterns': ['out'], 'tp_replicated_parameter_patterns': ['ln'],
 'parameter_with_sub_params': [{'patterns': ['qkv'], 'shape': [[%1$d, %2$d, %2$d], 5], 'partition_dim': 0}]
 %3$s}\
""";
    Division division = new Division.AutoTp(Division.Heads.of(heads), 1);
    List<Long> shape =
        switch (name) {
          case "out.weight" -> List.of(5L, attention);
          case "qkv.weight" -> List.of(3 * attention, 5L);
          case "mlp.up.weight" -> List.of(6L + random.nextInt(9), 5L);
          default -> List.of(attention, 5L);
        };
    long size = attention;
    TensorDegree from1 =
        degree(info.formatted(size, size, widths(size, 1, heads)), division, ranks);
    List<LocalTensor> saved = from1.recut(name, List.of(shape)).target();
    TensorDegree there =
        degree(info.formatted(size, size, widths(size, ranks, heads)), division, others);
    Recut recut = there.recut(name, shapes(saved));
    TensorDegree back =
        degree(info.formatted(size, size, widths(size, others, heads)), division, ranks);

    assertThat(recut.shape()).isEqualTo(shape);
    assertThat(recut.source()).isEqualTo(saved);
    Recut again = back.recut(name, shapes(recut.target()));
    assertThat(again.source()).isEqualTo(recut.target());
    assertThat(again.target()).isEqualTo(saved);
  }

  private static String widths(long size, int ranks, int heads) {
    List<Long> each = ShardWidths.of(size, ranks, OptionalInt.of(heads), "qkv");
    List<String> three = new ArrayList<>(Collections.nCopies(3, each.toString()));
    return ", 'sub_param_shard_widths': {'qkv': %s}".formatted(three);
  }
}
