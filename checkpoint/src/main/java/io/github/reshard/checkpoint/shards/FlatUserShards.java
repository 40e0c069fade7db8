package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ExpertNames;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.zero12.AlignedShards;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import io.github.reshard.checkpoint.zero12.FlatPaddings;
import io.github.reshard.checkpoint.zero12.FlatReader;
import io.github.reshard.checkpoint.zero12.FlatSets;
import io.github.reshard.checkpoint.zero12.MuonMomentum;
import io.github.reshard.checkpoint.zero12.OptimizerStates;
import io.github.reshard.checkpoint.zero12.ParamGroups;
import io.github.reshard.checkpoint.zero12.Shard;
import io.github.reshard.checkpoint.zero12.ShardGroups;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SortedMap;

/**
 * Reads shards of ZeRO-1 and 2 that a user saved.
 *
 * @param model a state dict of the model, or null
 */
record FlatUserShards(
    DeepSpeedReading reading,
    UserShards user,
    UserHints hints,
    UserConfig config,
    ModelWeights model) {
  void read(SortedMap<Integer, Shard> byRank) throws IOException {
    int ranks = ShardRanks.worldSize(user, ShardGroups.byRank(byRank));
    reading.setDataParallelRanks(user.shards().get(0), ranks);
    reading.prove(ShardArchives.evidence(user, byRank));
    List<Shard> shards = List.copyOf(byRank.values());
    ParamGroups groups =
        FlatPaddings.ofShards(
            withShapes(ShardGroups.of(shards)),
            shards,
            config.dsConfig().map(DsConfig::alignsParameters),
            config.dsConfig().map(DsConfig::roundRobin),
            model == null ? List.of() : List.copyOf(model.weights().keySet()),
            reading::targetWorldSize,
            reading::note);
    FlatSets sets = FlatReader.addSets(reading, 0, groups, ranks);
    FlatReader.readShards(reading, shards, sets, ranks);
    addWeights(sets);
    recognised(shards.get(0).states(), ranks);
    FlatSets ordered = sets;
    if (AlignedShards.haveGaps(groups, ranks)) {
      requireWeights(sets);
    } else if (isRoundRobin(shards.get(0).states(), sets)) {
      ordered = reordered(sets);
    }
    FlatSets known = ordered;
    MuonMomentum.add(
        reading,
        null,
        shards,
        rank -> known.groups(reading.parameters(), rank, ranks),
        config.dsConfig().map(DsConfig::offloadsOptimizer));
    reading.addPart(FlatReader.part(0, Optional.empty(), shards, known));
  }

  private void recognised(OptimizerStates states, int ranks) {
    reading.note(
        "recognised %d shards '%s', each the optimizer.state_dict() of a rank: %s, %s"
            .formatted(
                ranks,
                user.pattern(),
                states.isBf16Optimizer() ? "BF16_Optimizer (ZeRO-1)" : "ZeRO-" + states.stage(),
                states.groups() == 1 ? "1 param group" : states.groups() + " param groups"));
    if (!user.leftOut().isEmpty()) {
      reading.note(
          "directories beside the shards are not carried over: "
              + String.join(", ", user.leftOut()));
    }
  }

  /** A parameter has the shape that the model says; without a model it is a row of elements. */
  private ParamGroups withShapes(ParamGroups groups) {
    if (model == null) {
      return groups;
    }
    List<ParamGroups.Group> shaped = new ArrayList<>();
    for (ParamGroups.Group group : groups.groups()) {
      shaped.add(
          new ParamGroups.Group(
              group.parameters().stream().map(this::withShape).toList(),
              group.expertParallelSize()));
    }
    return new ParamGroups(shaped, groups.roundRobin(), groups.dataFirst(), groups.paddings());
  }

  private Parameter withShape(Parameter parameter) {
    return model
        .find(parameter.name())
        .filter(weight -> weight.elements() == parameter.elements())
        .map(weight -> new Parameter(parameter.name(), weight.shape(), parameter.group()))
        .orElse(parameter);
  }

  private void addWeights(FlatSets sets) {
    int parameters = 0;
    List<String> without = new ArrayList<>();
    for (int index : sets.all()) {
      ParameterSet each = reading.parameters().get(index);
      ExpertNames names =
          each.expertRank() == ParamId.NO_EXPERT ? null : ExpertNames.of(each.parameters());
      for (int p = 0; p < each.parameters().size(); p++) {
        Parameter parameter = each.parameters().get(p);
        String name =
            names == null ? parameter.name() : names.global(parameter.name(), each.expertRank());
        each.weights()
            .add(
                model == null
                    ? null
                    : model.compared(name, parameter, each.statesOf(p).get(States.MASTER)));
        parameters++;
        if (each.weights().get(p) == null) {
          without.add(name);
        }
      }
    }
    if (model == null) {
      return;
    }
    if (without.size() == parameters) {
      throw new RefusedException(
          model.path(),
          "holds no weight that can be compared with the shards: it has %s, the shards have %s."
              .formatted(
                  model.weights().keySet().stream().limit(4).toList(),
                  without.stream().limit(4).toList()));
    }
    if (!without.isEmpty()) {
      reading.note(
          "%d of %d parameters have no comparable weight in %s, such as %s; of these nothing is proven by it"
              .formatted(without.size(), parameters, model.path(), without.get(0)));
    }
  }

  /**
   * Whether the flat buffers are in the order of {@code round_robin_gradients}. {@code
   * param_slice_mappings} are in the original order in either case (DeepSpeed 0.19.6,
   * runtime/zero/stage_1_and_2.py, {@code _link_all_hp_params}), so the shards cannot tell.
   */
  private boolean isRoundRobin(OptimizerStates states, FlatSets sets) throws IOException {
    Optional<Boolean> configured = config.dsConfig().map(DsConfig::roundRobin);
    boolean atSource = ShardGroups.orderMatters(sets.groups(), reading.dataParallelRanks());
    boolean atTarget = ShardGroups.orderMatters(sets.groups(), reading.targetWorldSize());
    boolean possible = !states.isBf16Optimizer() && (atSource || atTarget);
    Optional<String> plain = Optional.empty();
    Optional<String> robin = Optional.empty();
    if (model != null) {
      plain = firstMismatch(sets, false);
      robin = possible && atSource ? firstMismatch(sets, true) : plain;
      boolean fits =
          configured.isPresent()
              ? (configured.get() ? robin : plain).isEmpty()
              : plain.isEmpty() || robin.isEmpty();
      if (!fits && !hints.trustMasters()) {
        throw notTheWeights(model, configured, plain, possible && atSource);
      }
    }
    if (!possible) {
      return false;
    }
    if (configured.isPresent()) {
      return configured.get();
    }
    if (!atSource) {
      reading.note(
          "one rank's shard looks the same with and without round_robin_gradients; the output is"
              + " for a run without. If yours has it, say so with --dsConfig=FILE, the DeepSpeed"
              + " configuration");
      return false;
    }
    if (model == null) {
      reading.note(onTrust());
      return false;
    }
    if (plain.isPresent() && robin.isPresent()) {
      reading.note(onTrust());
      return false;
    }
    boolean both = plain.isEmpty() && robin.isEmpty();
    reading.note(
        both
            ? "the weights fit the plain order of parameters and that of round_robin_gradients; the"
                + " plain one was taken. --dsConfig=FILE decides it"
            : "the order of parameters in the shards is %s: in that order, and not in the other, the masters give the weights in %s"
                .formatted(
                    robin.isEmpty() ? "that of round_robin_gradients" : "the plain one",
                    model.path()));
    return robin.isEmpty() && !both;
  }

  /** The shards tell the order themselves where there is padding between the parameters. */
  private void requireWeights(FlatSets sets) throws IOException {
    Optional<String> mismatch =
        model == null ? Optional.empty() : firstMismatch(sets, sets.groups().roundRobin());
    if (mismatch.isPresent() && !hints.trustMasters()) {
      throw notTheWeights(model, Optional.empty(), mismatch, false);
    }
  }

  private String onTrust() {
    String beside =
        user.beside().stream()
            .map(FileStat::name)
            .filter(
                name ->
                    name.equals("pytorch_model.bin")
                        || name.startsWith("model.safetensors")
                        || name.equals("pytorch_model.bin.index.json"))
            .findFirst()
            .map(name -> "--model=" + name + ", which lies beside them, proves it")
            .orElse(
                "--model=FILE, a state dict of the model at the same step (torch or safetensors),"
                    + " proves it");
    return "the order of parameters was taken on trust: a run with round_robin_gradients leaves"
        + " shards that look just the same. "
        + beside;
  }

  static RefusedException notTheWeights(
      ModelWeights model, Optional<Boolean> configured, Optional<String> plain, boolean triedBoth) {
    return new RefusedException(
        model.path(),
        "the masters in the shards, cast to the model's type, do not give its weights%s; the first that differs is %s. Is the model of another step, saved in another type than it was trained in, or are shards called by the wrong ranks? --trustMasters goes on all the same."
            .formatted(
                configured.isPresent()
                    ? " in the order that --dsConfig says"
                    : triedBoth
                        ? ", neither in the plain order nor in that of round_robin_gradients"
                        : "",
                plain.orElse("not in the plain order")));
  }

  private Optional<String> firstMismatch(FlatSets sets, boolean roundRobin) throws IOException {
    OrderProof proof = new OrderProof(reading);
    ParamGroups ordered = sets.groups().withRoundRobin(roundRobin);
    for (Map.Entry<Integer, List<Integer>> ofSize : sets.indices().entrySet()) {
      for (int expertRank = 0; expertRank < ofSize.getValue().size(); expertRank++) {
        ParameterSet each = reading.parameters().get(ofSize.getValue().get(expertRank));
        FlatLayout layout =
            ordered.layout(reading.dataParallelRanks(), ofSize.getKey(), expertRank);
        Optional<String> mismatch = proof.firstMismatch(each, layout, false);
        if (mismatch.isPresent()) {
          return mismatch;
        }
      }
    }
    return Optional.empty();
  }

  /** The parameters in the order of {@code round_robin_gradients}. */
  private FlatSets reordered(FlatSets sets) {
    ParamGroups ordered = sets.groups().withRoundRobin(true);
    sets.indices()
        .forEach(
            (size, ofSize) -> {
              for (int expertRank = 0; expertRank < ofSize.size(); expertRank++) {
                int index = ofSize.get(expertRank);
                FlatLayout layout = ordered.layout(reading.dataParallelRanks(), size, expertRank);
                reading.setParameters(index, reading.parameters().get(index).with(layout));
              }
            });
    return new FlatSets(ordered, sets.indices());
  }
}
