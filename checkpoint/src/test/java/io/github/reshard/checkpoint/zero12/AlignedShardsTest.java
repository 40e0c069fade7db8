package io.github.reshard.checkpoint.zero12;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.testing.Corpus;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.Test;

/** What the shards of runs with {@code parameter_alignment} tell without a model file. */
class AlignedShardsTest {
  private static final Path PLAIN =
      Corpus.ROOT.resolveSibling("field/parameter-alignment-0.19.8/source/global_step3");
  private static final Path ROUND_ROBIN =
      Corpus.ROOT.resolveSibling("zero12/z2-aligned-roundrobin/source/global_step3");

  /** The matrices of both, in the order in which the optimizer was given them. */
  private static final List<String> MATRICES =
      List.of(
          "emb.weight",
          "blocks.0.fc.weight",
          "blocks.0.out.weight",
          "blocks.1.fc.weight",
          "blocks.1.out.weight",
          "head.weight");

  private final List<String> notes = new ArrayList<>();

  private static List<Shard> shards(Path directory, String prefix, int ranks) throws IOException {
    List<Shard> shards = new ArrayList<>();
    for (int rank = 0; rank < ranks; rank++) {
      Path path =
          directory.resolve(prefix + "zero_pp_rank_" + rank + "_mp_rank_00_optim_states.pt");
      try (RangedFile open = Corpus.open(path)) {
        TorchFile file = TorchFile.read(open);
        PickledValue root = PickledValue.root(file.path(), file.parse().root());
        shards.add(new Shard(rank, file, new OptimizerStates(root)));
      }
    }
    return shards;
  }

  private ParamGroups read(List<Shard> shards, Optional<Boolean> roundRobin, List<String> module) {
    return FlatPaddings.ofShards(
        ShardGroups.of(shards), shards, Optional.empty(), roundRobin, module, () -> 3, notes::add);
  }

  private static List<String> matrices(ParamGroups groups) {
    return groups.groups().get(0).parameters().stream().map(Parameter::name).toList();
  }

  @Test
  void sizesAndOrderAreThoseOfTheMappings() throws IOException {
    ParamGroups groups = read(shards(PLAIN, "bf16_", 4), Optional.empty(), List.of());

    assertThat(matrices(groups)).isEqualTo(MATRICES);
    assertThat(groups.groups().get(0).parameters())
        .extracting(Parameter::elements)
        .containsExactly(481L, 520L, 520L, 520L, 520L, 481L);
    assertThat(groups.roundRobin()).isFalse();
    assertThat(groups.paddings().alignment(0)).isEqualTo(8);
    assertThat(notes).isEmpty();
  }

  @Test
  void theModulesOrderTellsRoundRobin() throws IOException {
    ParamGroups groups = read(shards(ROUND_ROBIN, "", 2), Optional.empty(), MATRICES);

    assertThat(groups.roundRobin()).isTrue();
    assertThat(matrices(groups)).isEqualTo(MATRICES);
    assertThat(groups.paddings().alignment(0)).isEqualTo(4);
    assertThat(notes).isEmpty();
  }

  @Test
  void aConfigurationTellsRoundRobin() throws IOException {
    ParamGroups groups = read(shards(ROUND_ROBIN, "", 2), Optional.of(true), List.of());

    assertThat(groups.roundRobin()).isTrue();
    assertThat(matrices(groups)).isEqualTo(MATRICES);
  }

  @Test
  void withoutEitherItIsSaidThatTheOrderIsTakenOnTrust() throws IOException {
    assertThat(read(shards(ROUND_ROBIN, "", 2), Optional.empty(), List.of()).roundRobin())
        .isFalse();
    assertThat(notes).hasSize(1).first().asString().contains("on trust", "--dsConfig");
  }

  @Test
  void theConfigurationOfAnotherRunIsRefused() throws IOException {
    List<Shard> shards = shards(PLAIN, "bf16_", 4);

    assertThatThrownBy(() -> read(shards, Optional.of(true), List.of()))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("without round_robin_gradients, --dsConfig says another");
  }

  @Test
  void aFragmentThatIsNotWhereThePaddingPutsItIsRefused() throws IOException {
    List<Shard> shards = shards(PLAIN, "bf16_", 4);
    PickledValue mapping =
        shards.get(0).states().stateDict().get(OptimizerStates.PARAM_SLICE_MAPPINGS).items().get(0);
    PyInstance second = (PyInstance) mapping.children().get(1).value().node();
    ((PyDict) second.state()).entries().replace("start", PyInt.of(481));

    assertThatThrownBy(() -> ShardGroups.of(shards))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("blocks.0.fc.weight")
        .hasMessageContaining("at element 488 of param group 0")
        .hasMessageContaining("found this one at 481");
  }
}
