package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CopiedShards;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ExpertNames;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.PlanBuilder;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.json.JsonAsPython;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.zero12.AlignedShards;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import io.github.reshard.checkpoint.zero12.FlatPaddings;
import io.github.reshard.checkpoint.zero12.FlatPlanner;
import io.github.reshard.checkpoint.zero12.FlatShards;
import io.github.reshard.checkpoint.zero12.MuonMomentum;
import io.github.reshard.checkpoint.zero12.OptimizerStates;
import io.github.reshard.checkpoint.zero12.ParamGroups;
import io.github.reshard.checkpoint.zero12.Shard;
import io.github.reshard.checkpoint.zero12.ShardGroups;
import io.github.reshard.checkpoint.zero3.ParameterIds;
import io.github.reshard.checkpoint.zero3.ShardedLayout;
import io.github.reshard.checkpoint.zero3.ShardedOptimizerRecipe;
import io.github.reshard.checkpoint.zero3.ShardedPlanner;
import io.github.reshard.checkpoint.zero3.ShardedStates;
import io.github.reshard.checkpoint.zero3.SubGroups;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.stream.Collectors;

/** Plans the reshard of shards that a user saved, with what the user adds to them. */
public final class UserShardsPlanner {
  private static final long MOST_CONFIG_BYTES = 16L << 20;

  private final PlanBuilder plan;
  private final UserShards user;
  private final UserHints hints;
  private final FlatPlanner flat;
  private ModelWeights model;

  private UserShardsPlanner(PlanBuilder plan, UserShards user, UserHints hints) {
    this.plan = plan;
    this.user = user;
    this.hints = hints;
    this.flat = new FlatPlanner(plan);
  }

  /**
   * Adds the shards of the target's ranks and the files beside.
   *
   * @throws RefusedException if the shards are not those of all ranks of one run at one step
   */
  public static void plan(PlanBuilder plan, UserShards user, UserHints hints) throws IOException {
    plan.plainObjects = hints.sanitize();
    UserShardsPlanner planner = new UserShardsPlanner(plan, user, hints);
    SortedMap<Integer, Shard> shards = planner.readShards();
    int stage = shards.get(shards.firstKey()).states().stage();
    planner.config().ifPresent(config -> config.requireSupported(stage));
    if (hints.model().isPresent()) {
      planner.model = ModelWeights.read(plan, user.directory(), hints.model().get());
    }
    if (isSharded(shards.get(shards.firstKey()).states().root())) {
      planner.planSharded(shards);
    } else {
      planner.planFlat(shards);
    }
    new CopiedShards(plan).refuse(false).ifPresent(plan.evidence::add);
    plan.evidence.addAll(plan.steps.evidence());
    planner.carryFilesBeside();
  }

  private SortedMap<Integer, Shard> readShards() throws IOException {
    SortedMap<Integer, Shard> shards = new TreeMap<>();
    Iterator<Integer> ranks = user.shards().keySet().iterator();
    plan.readEach(
        user.shards().values(),
        (stat, file) -> {
          PickledValue root = PickledValue.root(file.path(), file.parse().root());
          requireKnownKind(root);
          shards.put(
              ranks.next(), new Shard(plan.addSource(stat, file), file, new OptimizerStates(root)));
        });
    return shards;
  }

  private static boolean isSharded(PickledValue root) {
    return root.find(OptimizerFile.FLAT_GROUPS).isPresent()
        || root.find("optimizer_state_dict")
            .filter(PickledValue::isDict)
            .flatMap(inner -> inner.find(OptimizerFile.FLAT_GROUPS))
            .isPresent();
  }

  private static void requireKnownKind(PickledValue root) {
    if (!root.isDict()) {
      throw root.refused(
          "expected what optimizer.state_dict() returns, found " + root.describe() + ".");
    }
    if (isSharded(root)) {
      return;
    }
    OptimizerStates states = new OptimizerStates(root);
    if (states.stateDict().find("single_partition_of_fp32_groups").isEmpty()) {
      throw root.refused(
          "expected the state_dict() of a ZeRO optimizer of DeepSpeed, which has the key 'single_partition_of_fp32_groups'; found %s. A state dict of another optimizer is the same on all ranks and needs no resharding."
              .formatted(root.children().stream().map(PickledValue.Entry::key).limit(12).toList()));
    }
    if (states.stage() != 1 && states.stage() != 2) {
      throw root.refused("zero_stage is %d, expected 1 or 2.".formatted(states.stage()));
    }
  }

  private void planFlat(SortedMap<Integer, Shard> byRank) throws IOException {
    int ranks = ShardRanks.worldSize(user, ShardGroups.byRank(byRank));
    plan.setSourceWorldSize(user.shards().get(0), ranks);
    plan.evidence.add(ShardArchives.evidence(user, byRank));
    List<Shard> shards = List.copyOf(byRank.values());
    ParamGroups groups =
        FlatPaddings.ofShards(
            withShapes(ShardGroups.of(shards)),
            shards,
            config().map(DsConfig::alignsParameters),
            config().map(DsConfig::roundRobin),
            model == null ? List.of() : List.copyOf(model.weights().keySet()),
            plan.targetWorldSize,
            plan.notes);
    FlatPlanner.Models models = flat.addModels(0, groups, ranks);
    for (int rank = 0; rank < ranks; rank++) {
      FlatShards.addPartitions(plan, shards.get(rank), rank, models.refs(plan, rank, ranks));
    }
    flat.requireReplicasAgree(shards, models.refs(plan, 0, ranks));
    flat.addSteps(shards);
    addWeights(models);
    recognised(shards.get(0).states(), ranks);
    if (AlignedShards.haveGaps(groups, ranks)) {
      requireWeights(groups, models);
    } else if (isRoundRobin(shards.get(0).states(), groups, models)) {
      reorder(groups, models);
      plan.notes.add(FlatPlanner.ROUND_ROBIN_NOTE);
    }
    MuonMomentum.add(
        plan,
        null,
        shards,
        r -> models.refs(plan, r, ranks),
        config().map(DsConfig::offloadsOptimizer));
    for (int rank = 0; rank < plan.targetWorldSize; rank++) {
      flat.planOptimizerFile(
          shards, rank, user.nameOf(rank), models.refs(plan, rank, plan.targetWorldSize));
    }
    flat.addPadding(models);
  }

  private void planSharded(SortedMap<Integer, Shard> byRank) throws IOException {
    Shard any = byRank.get(byRank.firstKey());
    for (Shard shard : byRank.values()) {
      if (!isSharded(shard.states().root())) {
        throw new RefusedException(
            shard.file().path(),
            "is no shard of ZeRO-3, %s is. They are of different runs."
                .formatted(any.file().path()));
      }
    }
    PickledValue count =
        new ShardedStates(any.states().root()).stateDict().get(OptimizerFile.PARTITION_COUNT);
    int ranks = count.asInt();
    ShardRanks.requireRanks(user, ranks, "partition_count");
    plan.setSourceWorldSize(user.shards().get(0), ranks);
    plan.evidence.add(ShardArchives.evidence(user, byRank));
    if (model == null) {
      throw new RefusedException(
          user.directory() + "/" + user.pattern(),
          "these are shards of ZeRO-3, which hold neither the names nor the shapes of the"
              + " parameters. Say --model=FILE, the model's state dict at the same step (torch or"
              + " safetensors).");
    }
    new ShardedStates(any.states().root()).requireNoMuon(Optional.empty());
    List<Shard> shards = List.copyOf(byRank.values());
    ShardedReading reading = new ShardedReading(plan, shards, model);
    SubGroups subGroups =
        hints.paramGroups().isPresent()
            ? reading.listed(hints.paramGroups().get(), listedGroups())
            : reading.found();
    long size = subGroupSize(subGroups, ranks);
    ShardedLayout source = new ShardedLayout(ranks, subGroups.parameters(), size);
    ShardedLayout target = new ShardedLayout(plan.targetWorldSize, subGroups.parameters(), size);
    int index = plan.addModel(ShardedPlanner.model(0, source, target));
    PartitionedModel partitioned = plan.models.get(index);
    ShardedPlanner sharded = new ShardedPlanner(plan);
    List<ShardedPlanner.RankFile> files =
        shards.stream()
            .map(shard -> new ShardedPlanner.RankFile(shard.source(), shard.file()))
            .toList();
    for (int rank = 0; rank < ranks; rank++) {
      sharded.addPartitions(rank, files.get(rank), index);
    }
    sharded.requireReplicasAgree(List.of(), files, source, List.of());
    ShardedStates states = new ShardedStates(shards.get(0).states().root());
    plan.steps.addOptimizer(
        shards.get(0).source(),
        shards.get(0).file(),
        states.optimizer(),
        user.shards().values().stream().map(FileStat::name).toList(),
        true);
    if (!source.hasBoundariesOf(target)) {
      sharded.requireSubGroupsAgree(states, files.get(0), source);
    }
    addShardedWeights(partitioned);
    plan.notes.add(
        "recognised %d shards '%s', each the optimizer.state_dict() of a rank: ZeRO-3, param groups: %d"
            .formatted(ranks, user.pattern(), states.subGroups().size()));
    Set<String> trained =
        subGroups.parameters().stream().map(Parameter::name).collect(Collectors.toSet());
    List<String> dsIds =
        ParameterIds.labels(
            model.weights().keySet().stream().filter(trained::contains).toList(),
            Set.of(),
            source,
            states.dsIds(),
            target);
    for (int rank = 0; rank < plan.targetWorldSize; rank++) {
      ShardedPlanner.RankFile template = files.get(rank < ranks ? rank : 0);
      TorchRecipe recipe =
          plan.optimizerRecipe(new ShardedOptimizerRecipe(template.source(), rank, index, dsIds));
      sharded.planFile(
          template,
          rank,
          user.nameOf(rank),
          recipe,
          TorchTarget.pickled(template.file(), recipe, plan.models, plan.targetWorldSize),
          index);
    }
  }

  /** The values are what tells which parameter is where, so they have to agree. */
  private void addShardedWeights(PartitionedModel partitioned) throws IOException {
    List<String> without = new ArrayList<>();
    for (int p = 0; p < partitioned.parameters().size(); p++) {
      Parameter parameter = partitioned.parameters().get(p);
      ModuleWeight weight =
          model.compared(parameter.name(), parameter, partitioned.statesOf(p).get(States.MASTER));
      partitioned.weights().set(p, weight);
      if (weight == null) {
        without.add(parameter.name());
      }
    }
    Optional<String> mismatch =
        new OrderProof(plan).firstMismatch(partitioned, partitioned.source(), false);
    if (mismatch.isPresent() && !hints.trustMasters()) {
      throw notTheWeights(Optional.empty(), mismatch, false);
    }
    if (!without.isEmpty()) {
      plan.notes.add(
          "%d parameters have no comparable weight in %s, such as %s; that they are where --paramGroups says was taken on trust"
              .formatted(without.size(), model.path(), without.get(0)));
    }
  }

  private long subGroupSize(SubGroups subGroups, int ranks) throws IOException {
    Optional<DsConfig> config = config();
    if (config.isEmpty()) {
      return subGroups.inferred(
          ranks,
          plan.targetWorldSize,
          plan.notes,
          "the shards do not tell the DeepSpeed configuration",
          "Say it with --dsConfig=FILE.");
    }
    long size = config.get().subGroupSize();
    if (!subGroups.agree(new ShardedLayout(ranks, subGroups.parameters(), size))) {
      throw new RefusedException(
          hints.dsConfig().get(),
          "sub_group_size %d does not make the sub-groups of these shards. It is the configuration of another run."
              .formatted(size));
    }
    return size;
  }

  private List<List<String>> listedGroups() throws IOException {
    FileStat stat =
        NamedFile.find(plan.store, user.directory(), hints.paramGroups().get(), "--paramGroups");
    if (NamedFile.json(plan.store, stat, MOST_CONFIG_BYTES) instanceof List<?> groups) {
      List<List<String>> names = new ArrayList<>();
      for (Object group : groups) {
        if (!(group instanceof List<?> list) || !list.stream().allMatch(String.class::isInstance)) {
          break;
        }
        names.add(list.stream().map(String.class::cast).toList());
      }
      if (names.size() == groups.size()) {
        return names;
      }
    }
    throw new RefusedException(
        stat.path(), "expected the names of each param group: [[\"name\", ...], ...].");
  }

  private void recognised(OptimizerStates states, int ranks) {
    plan.notes.add(
        "recognised %d shards '%s', each the optimizer.state_dict() of a rank: %s, %s"
            .formatted(
                ranks,
                user.pattern(),
                states.isBf16Optimizer() ? "BF16_Optimizer (ZeRO-1)" : "ZeRO-" + states.stage(),
                states.groups() == 1 ? "1 param group" : states.groups() + " param groups"));
    if (!user.leftOut().isEmpty()) {
      plan.notes.add(
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

  private void addWeights(FlatPlanner.Models models) {
    int parameters = 0;
    List<String> without = new ArrayList<>();
    for (PartitionedModel each : indices(models)) {
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
      plan.notes.add(
          "%d of %d parameters have no comparable weight in %s, such as %s; of these nothing is proven by it"
              .formatted(without.size(), parameters, model.path(), without.get(0)));
    }
  }

  private List<PartitionedModel> indices(FlatPlanner.Models models) {
    return models.indices().keySet().stream()
        .sorted()
        .flatMap(size -> models.indices().get(size).stream())
        .map(plan.models::get)
        .toList();
  }

  /**
   * Whether the flat buffers are in the order of {@code round_robin_gradients}. {@code
   * param_slice_mappings} are in the original order in either case (DeepSpeed 0.19.6,
   * runtime/zero/stage_1_and_2.py, {@code _link_all_hp_params}), so the shards cannot tell.
   */
  private boolean isRoundRobin(
      OptimizerStates states, ParamGroups groups, FlatPlanner.Models models) throws IOException {
    Optional<Boolean> configured = config().map(DsConfig::roundRobin);
    boolean atSource = ShardGroups.orderMatters(groups, plan.sourceWorldSize());
    boolean atTarget = ShardGroups.orderMatters(groups, plan.targetWorldSize);
    boolean possible = !states.isBf16Optimizer() && (atSource || atTarget);
    Optional<String> plain = Optional.empty();
    Optional<String> robin = Optional.empty();
    if (model != null) {
      plain = firstMismatch(groups, models, false);
      robin = possible && atSource ? firstMismatch(groups, models, true) : plain;
      boolean fits =
          configured.isPresent()
              ? (configured.get() ? robin : plain).isEmpty()
              : plain.isEmpty() || robin.isEmpty();
      if (!fits && !hints.trustMasters()) {
        throw notTheWeights(configured, plain, possible && atSource);
      }
    }
    if (!possible) {
      return false;
    }
    if (configured.isPresent()) {
      return configured.get();
    }
    if (!atSource) {
      plan.notes.add(
          "one rank's shard looks the same with and without round_robin_gradients; the output is"
              + " for a run without. If yours has it, say so with --dsConfig=FILE, the DeepSpeed"
              + " configuration");
      return false;
    }
    if (model == null) {
      plan.notes.add(onTrust());
      return false;
    }
    if (plain.isPresent() && robin.isPresent()) {
      plan.notes.add(onTrust());
      return false;
    }
    boolean both = plain.isEmpty() && robin.isEmpty();
    plan.notes.add(
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
  private void requireWeights(ParamGroups groups, FlatPlanner.Models models) throws IOException {
    Optional<String> mismatch =
        model == null ? Optional.empty() : firstMismatch(groups, models, groups.roundRobin());
    if (mismatch.isPresent() && !hints.trustMasters()) {
      throw notTheWeights(Optional.empty(), mismatch, false);
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

  private RefusedException notTheWeights(
      Optional<Boolean> configured, Optional<String> plain, boolean triedBoth) {
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

  private Optional<String> firstMismatch(
      ParamGroups groups, FlatPlanner.Models models, boolean roundRobin) throws IOException {
    OrderProof proof = new OrderProof(plan);
    ParamGroups ordered = groups.withRoundRobin(roundRobin);
    for (Map.Entry<Integer, List<Integer>> ofSize : models.indices().entrySet()) {
      for (int expertRank = 0; expertRank < ofSize.getValue().size(); expertRank++) {
        PartitionedModel each = plan.models.get(ofSize.getValue().get(expertRank));
        FlatLayout layout = ordered.layout(plan.sourceWorldSize(), ofSize.getKey(), expertRank);
        Optional<String> mismatch = proof.firstMismatch(each, layout, false);
        if (mismatch.isPresent()) {
          return mismatch;
        }
      }
    }
    return Optional.empty();
  }

  private void reorder(ParamGroups groups, FlatPlanner.Models models) {
    ParamGroups ordered = groups.withRoundRobin(true);
    models
        .indices()
        .forEach(
            (size, ofSize) -> {
              for (int expertRank = 0; expertRank < ofSize.size(); expertRank++) {
                PartitionedModel each = plan.models.get(ofSize.get(expertRank));
                plan.models.set(
                    ofSize.get(expertRank),
                    new PartitionedModel(
                        each.mpRank(),
                        each.expertRank(),
                        ordered.layout(plan.sourceWorldSize(), size, expertRank),
                        ordered.layout(plan.targetWorldSize, size, expertRank),
                        each.states(),
                        each.sourcePartitions(),
                        each.targetPartitions(),
                        each.weights(),
                        each.whole()));
              }
            });
  }

  private Optional<DsConfig> config() throws IOException {
    if (hints.dsConfig().isEmpty()) {
      return Optional.empty();
    }
    FileStat stat =
        NamedFile.find(plan.store, user.directory(), hints.dsConfig().get(), "--dsConfig");
    if (!(NamedFile.json(plan.store, stat, MOST_CONFIG_BYTES) instanceof Map<?, ?> config)) {
      throw new RefusedException(stat.path(), "expected a DeepSpeed configuration, a JSON object.");
    }
    return Optional.of(new DsConfig(PickledValue.root(stat.path(), JsonAsPython.of(config))));
  }

  private void carryFilesBeside() {
    Map<String, Integer> known = model == null ? Map.of() : model.sources();
    for (FileStat file : user.beside()) {
      if (known.containsKey(file.path())) {
        plan.copyAsIs(file.name(), known.get(file.path()));
      } else {
        plan.copyAsIs(file.name(), file);
      }
    }
  }
}
