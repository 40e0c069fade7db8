package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.DsVersion;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.function.IntSupplier;
import java.util.function.ToLongBiFunction;

/** Which of DeepSpeed's ways to pad flat groups the shards of ZeRO-1 and 2 show. */
public final class FlatPaddings {
  private final ParamGroups groups;
  private final List<Shard> shards;
  private final int worldSize;
  private final Map<List<Integer>, FlatLayout> layouts = new HashMap<>();

  private FlatPaddings(ParamGroups groups, List<Shard> shards, int worldSize) {
    this.groups = groups;
    this.shards = shards;
    this.worldSize = worldSize;
  }

  /**
   * The groups with the padding that the shards beside a model file show.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if it is none of DeepSpeed's, or cannot
   *     be told for the target's size
   */
  static ParamGroups of(
      ModelStates model, ParamGroups groups, List<Shard> shards, IntSupplier targetWorldSize) {
    if (groups.expertParallelSizes().stream().anyMatch(n -> shards.size() % Math.max(1, n) != 0)) {
      return groups; // That is refused where the groups are laid out.
    }
    Optional<Boolean> configured =
        DsConfig.ifStored(model.root(), shards.get(0).states().root())
            .map(DsConfig::alignsParameters);
    ParamGroups aligned =
        ParameterAlignments.read(
            groups, shards, configured, g -> type(model, groups, g), targetWorldSize);
    if (configured.isEmpty() && !aligned.roundRobin()) {
      aligned = inOrder(model, aligned, shards, targetWorldSize);
    }
    return aligned.withPaddings(
        new Paddings(
            areWholeOnLastRank(aligned, shards, shards.size()), aligned.paddings().alignments()));
  }

  /**
   * The groups of shards without a model file, with the padding that they show.
   *
   * @param aligned whether {@code parameter_alignment} is on, if a configuration says it
   * @param roundRobin the same of {@code round_robin_gradients}
   * @param module the names of the model's weights in its order; empty if it is not given
   * @param notes where to say what was taken on trust
   * @throws io.github.reshard.checkpoint.RefusedException as {@link #of}, or if the shards say of
   *     the order of parameters what the configuration does not
   */
  public static ParamGroups ofShards(
      ParamGroups groups,
      List<Shard> shards,
      Optional<Boolean> aligned,
      Optional<Boolean> roundRobin,
      List<String> module,
      IntSupplier targetWorldSize,
      Consumer<String> notes) {
    ParamGroups padded =
        ParameterAlignments.read(groups, shards, aligned, g -> Optional.empty(), targetWorldSize);
    if (AlignedShards.haveGaps(padded, shards.size())) {
      Optional<Boolean> listed =
          AlignedShards.isRoundRobin(padded, shards, roundRobin.isPresent() ? List.of() : module);
      if (listed.isPresent() && roundRobin.isPresent() && !listed.equals(roundRobin)) {
        throw shards
            .get(0)
            .states()
            .stateDict()
            .get(OptimizerStates.PARAM_SLICE_MAPPINGS)
            .refused(
                "the order of parameters is that of a run %s round_robin_gradients, --dsConfig says another. It is the configuration of another run."
                    .formatted(listed.get() ? "with" : "without"));
      }
      if (listed.isEmpty()
          && roundRobin.isEmpty()
          && !AlignedShards.isOrderTheSame(padded, shards.size(), targetWorldSize.getAsInt())) {
        notes.accept(
            "the order of parameters was taken on trust: a run with round_robin_gradients may leave"
                + " shards that look just the same. --dsConfig=FILE, the DeepSpeed configuration,"
                + " decides it");
      }
      if (listed.or(() -> roundRobin).orElse(false)) {
        padded = AlignedShards.underRoundRobin(padded, shards.size());
      }
    }
    return padded.withPaddings(
        new Paddings(
            areWholeOnLastRank(padded, shards, shards.size()), padded.paddings().alignments()));
  }

  /**
   * The groups in the order of the run, though no configuration says whether it had {@code
   * round_robin_gradients}: with gaps between the parameters the mappings are right either way.
   */
  private static ParamGroups inOrder(
      ModelStates model, ParamGroups groups, List<Shard> shards, IntSupplier targetWorldSize) {
    if (!AlignedShards.haveGaps(groups, shards.size())) {
      return groups;
    }
    Optional<Boolean> roundRobin =
        AlignedShards.isRoundRobin(groups, shards, List.copyOf(model.module().keySet()));
    if (roundRobin.isEmpty()
        && !AlignedShards.isOrderTheSame(groups, shards.size(), targetWorldSize.getAsInt())) {
      throw shards
          .get(0)
          .states()
          .stateDict()
          .get(ParameterAlignments.KEY)
          .refused(
              "parameter_alignment is on, and without a configuration it cannot be told whether round_robin_gradients is as well, which at %d ranks would be another order of parameters. Save the checkpoint from a run whose config is given as a dict, or keep the number of ranks."
                  .formatted(targetWorldSize.getAsInt()));
    }
    return roundRobin.orElse(false) ? AlignedShards.underRoundRobin(groups, shards.size()) : groups;
  }

  /** The module's type of the parameters of a group, if the model file has them. */
  private static Optional<DType> type(ModelStates model, ParamGroups groups, int group) {
    Map<String, TensorNode> module = model.module();
    return groups.groups().get(group).parameters().stream()
        .filter(parameter -> module.containsKey(parameter.name()))
        .map(parameter -> module.get(parameter.name()).dtype())
        .findFirst();
  }

  /**
   * The groups as a run at another stage of ZeRO-1 and 2 pads them.
   *
   * @param stage the target's, or {@link ZeroStage#AS_SAVED}
   * @param states of the first shard
   */
  static ParamGroups atStage(
      int stage, ModelStates model, ParamGroups groups, OptimizerStates states) {
    if (stage == ZeroStage.AS_SAVED) {
      return groups;
    }
    DsConfig config = DsConfig.of(model.root());
    if (config.makesBf16Optimizer(stage) == states.isBf16Optimizer()) {
      return groups;
    }
    List<Integer> alignments = new ArrayList<>();
    for (int g = 0; g < groups.groups().size(); g++) {
      // Experts have the type of the dense parameters; their weights are in files of their own.
      alignments.add(
          type(model, groups, g)
              .or(() -> type(model, groups, 0))
              .map(ParameterAlignments::of)
              .orElse(1));
    }
    return groups.withPaddings(
        configured(DsVersion.in(states.stateDict(), states.root()), config, stage, alignments));
  }

  /**
   * Whether the whole padding of a group is recorded on the last rank. The records decide where the
   * two ways differ, else the version that saved them: it is what a run at another size would have
   * written. Shards without either are written as DeepSpeed does today, which every version loads:
   * it pads what was cut again ({@code _get_padded_tensor}).
   *
   * @param groups with the alignments that the shards have
   * @throws io.github.reshard.checkpoint.RefusedException if the records fit neither way
   */
  static boolean areWholeOnLastRank(ParamGroups groups, List<Shard> shards, int worldSize) {
    OptimizerStates first = shards.get(0).states();
    boolean before =
        DsVersion.in(first.stateDict(), first.root())
            .filter(version -> version.isBefore(DsVersion.OWN_PADDINGS))
            .isPresent();
    return first.isBf16Optimizer()
        ? before
        : new FlatPaddings(groups, shards, worldSize).recorded(before);
  }

  private boolean recorded(boolean before) {
    Optional<Integer> own = Optional.empty();
    Optional<Integer> whole = Optional.empty();
    for (int rank = 0; rank < shards.size(); rank++) {
      OptimizerStates states = shards.get(rank).states();
      if (states.groups() != groups.groups().size()) {
        return before; // The number of groups is refused where all of a shard is looked at.
      }
      List<Long> found = states.numbers(OptimizerStates.GROUP_PADDINGS);
      List<Long> ownPaddings = paddings(rank, (layout, g) -> layout.padding(g[0], g[1]));
      List<Long> wholePadding = paddings(rank, (layout, g) -> layout.paddingOnLastRank(g[0], g[1]));
      if (!found.equals(ownPaddings) && !found.equals(wholePadding)) {
        throw states
            .stateDict()
            .get(OptimizerStates.GROUP_PADDINGS)
            .refused(
                "expected %s from the model file's shapes and dp_world_size%s, found %s. The files do not belong together."
                    .formatted(
                        ownPaddings,
                        ownPaddings.equals(wholePadding)
                            ? ""
                            : ", or %s if it was saved by DeepSpeed before 0.16.4"
                                .formatted(wholePadding),
                        found));
      }
      if (!ownPaddings.equals(wholePadding)) {
        own = found.equals(ownPaddings) ? Optional.of(rank) : own;
        whole = found.equals(wholePadding) ? Optional.of(rank) : whole;
      }
    }
    if (own.isPresent() && whole.isPresent()) {
      throw shards
          .get(whole.get())
          .states()
          .stateDict()
          .get(OptimizerStates.GROUP_PADDINGS)
          .refused(
              "the padding is recorded as DeepSpeed before 0.16.4 does it, in %s as later ones do. The files are of different runs."
                  .formatted(shards.get(own.get()).file().path()));
    }
    return whole.isPresent() || (own.isEmpty() && before);
  }

  private List<Long> paddings(int rank, ToLongBiFunction<FlatLayout, int[]> padding) {
    List<Long> ofGroups = new ArrayList<>();
    for (int g = 0; g < groups.groups().size(); g++) {
      int size = groups.groups().get(g).expertParallelSize();
      int expertRank = size == ParamGroups.DENSE ? 0 : groups.expertRank(rank, worldSize, size);
      FlatLayout layout =
          layouts.computeIfAbsent(
              List.of(size, expertRank), key -> groups.layout(worldSize, size, expertRank));
      ofGroups.add(padding.applyAsLong(layout, new int[] {rank, groups.indices(size).indexOf(g)}));
    }
    return ofGroups;
  }

  /**
   * How a run at the target's stage pads, if the source is of ZeRO-3 or of BF16_Optimizer, whose
   * files show neither: that is for its version and configuration to say.
   *
   * @param version of the DeepSpeed that saved the source
   * @param alignments of each group if {@code parameter_alignment} is on
   */
  public static Paddings configured(
      Optional<DsVersion> version, DsConfig config, int stage, List<Integer> alignments) {
    boolean aligned = recordsAlignments(version, config, stage) && config.alignsParameters();
    return new Paddings(
        version.filter(v -> v.isBefore(DsVersion.OWN_PADDINGS)).isPresent(),
        aligned ? alignments : List.of());
  }

  /** Whether a run at {@code stage} records {@code param_alignment_paddings}. */
  public static boolean recordsAlignments(Optional<DsVersion> version, DsConfig config, int stage) {
    return !config.makesBf16Optimizer(stage)
        && version.filter(v -> !v.isBefore(DsVersion.PARAMETER_ALIGNMENT)).isPresent();
  }
}
