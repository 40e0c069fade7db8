package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.PlanBuilder;
import io.github.reshard.checkpoint.deepspeed.RanksPresent;
import io.github.reshard.checkpoint.deepspeed.ReplicaComparison;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.format.OtherViews;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;
import java.util.function.Supplier;

/** Plans the reshard of a checkpoint of ZeRO-3. */
public final class ShardedPlanner {
  private final PlanBuilder plan;
  private Optional<OtherWriter> other = Optional.empty();

  public ShardedPlanner(PlanBuilder plan) {
    this.plan = plan;
  }

  /**
   * Adds what every mp rank needs.
   *
   * @param other what writes it, if that is not files of ZeRO
   * @throws RefusedException if the files contradict each other, or are of a kind that cannot be
   *     resharded
   */
  public static void plan(PlanBuilder plan, Optional<OtherWriter> other) throws IOException {
    ShardedPlanner planner = new ShardedPlanner(plan);
    planner.other = other;
    for (FileStat layer : plan.files.layers()) {
      plan.copyAsIs(plan.targetTag + "/" + layer.name(), layer);
    }
    for (FileStat expert : plan.files.experts()) {
      throw new RefusedException(
          expert.path(), "a mixture of experts under ZeRO-3 is not supported.");
    }
    for (int mpRank : plan.files.rankModels().keySet()) {
      planner.planMpRank(mpRank);
    }
    plan.notes.add(
        plan.targetStage == 1 || plan.targetStage == 2
            ? "ZeRO-3 stores no module weights; those of the output are its masters, rounded to the module's type."
            : "ZeRO-3 stores no module weights; that the masters belong to these parameters is proven by their shapes, not by their values.");
  }

  /** A file of one source rank. */
  public record RankFile(int source, TorchFile file) {}

  /** What is worked out once for all files that say the same; usually those of all ranks do. */
  private static final class Shared<T> {
    private final List<TorchFile> files = new ArrayList<>();
    private final List<T> values = new ArrayList<>();

    T get(RankFile file, Supplier<T> make) {
      // Most recent first: a rank that differs from all others costs a look at each of them.
      for (int i = files.size() - 1; i >= Math.max(0, files.size() - MOST_COMPARED); i--) {
        if (files.get(i).hasPickleOf(file.file())) {
          return values.get(i);
        }
      }
      files.add(file.file());
      values.add(make.get());
      return values.get(values.size() - 1);
    }

    private static final int MOST_COMPARED = 4;
  }

  /** The models of an mp rank. */
  private record Models(int trained, int frozen) {}

  private List<RankFile> read(Collection<FileStat> stats) throws IOException {
    List<RankFile> read = new ArrayList<>();
    plan.readEach(stats, (stat, file) -> read.add(new RankFile(plan.addSource(stat, file), file)));
    return read;
  }

  private static PickledValue root(RankFile file) {
    return root(file.file());
  }

  private static PickledValue root(TorchFile file) {
    return PickledValue.root(file.path(), file.parse().root());
  }

  private void planMpRank(int mpRank) throws IOException {
    SortedMap<Integer, FileStat> ofModels = plan.files.rankModels().get(mpRank);
    FileStat firstStat = ofModels.get(ofModels.firstKey());
    int ranks = new ModelStates(root(plan.read(firstStat))).dpWorldSize();
    plan.setSourceWorldSize(firstStat, ranks);
    SortedMap<Integer, FileStat> modelStats =
        RanksPresent.of(plan, firstStat.name(), mpRank, "model files", ofModels, ranks);
    SortedMap<Integer, FileStat> optimizerStats =
        RanksPresent.of(
            plan,
            firstStat.name(),
            mpRank,
            "optimizer files",
            plan.files.optimizers().get(mpRank),
            ranks);
    List<RankFile> models = read(modelStats.values());
    ModelStates first = new ModelStates(root(models.get(0)));
    plan.parallelism = first.parallelism();
    List<RankFile> optimizers = read(optimizerStats.values());
    ShardedStates states = new ShardedStates(root(optimizers.get(0)));
    ShardedKinds.requireSupported(plan, first, states);
    states.requireNoMuon(Optional.of(first.root()));

    SubGroups subGroups = SubGroups.of(first, states);
    long subGroupSize = subGroups.size(first, ranks, plan.targetWorldSize, plan.notes);
    ShardedLayout source = new ShardedLayout(ranks, subGroups.parameters(), subGroupSize);
    boolean flat = plan.isConversionOf(states.stage());
    if (flat) {
      StagePlanner.requireConvertible(plan, first, states);
    }
    ZeroLayout target =
        flat
            ? StagePlanner.flatLayout(plan, first, states, subGroups.parameters())
            : new ShardedLayout(
                plan.targetWorldSize, subGroups.parameters(), other.isPresent() ? 0 : subGroupSize);
    List<Parameter> frozen = partitionedFrozen(first);
    Models indices =
        new Models(
            plan.addModel(model(mpRank, source, target)),
            frozen.isEmpty()
                ? ShardedModelRecipe.NONE_FROZEN
                : plan.addModel(
                    model(
                        mpRank,
                        new ShardedLayout(ranks, frozen, 0),
                        new ShardedLayout(flat ? 1 : plan.targetWorldSize, frozen, 0))));
    Shared<List<Located>> partitions = new Shared<>();
    Shared<List<Located>> fragments = new Shared<>();
    for (int rank = 0; rank < ranks; rank++) {
      RankFile optimizer = optimizers.get(rank);
      addPartitions(
          rank,
          optimizer,
          partitions.get(
              optimizer, () -> partitions(optimizer, plan.models.get(indices.trained()))),
          indices.trained());
      if (indices.frozen() != ShardedModelRecipe.NONE_FROZEN) {
        RankFile model = models.get(rank);
        addPartitions(
            rank,
            model,
            fragments.get(model, () -> fragments(model, first, plan.models.get(indices.frozen()))),
            indices.frozen());
      }
    }
    requireReplicasAgree(models, optimizers, source, frozen);
    plan.steps.addModel(first, models.size());
    plan.steps.addOptimizer(
        optimizers.get(0).source(),
        optimizers.get(0).file(),
        states.optimizer(),
        optimizerStats.values().stream().map(FileStat::name).toList(),
        true);
    StagePlanner.Sharded read =
        new StagePlanner.Sharded(
            mpRank, first, models.get(0), optimizers, indices.trained(), indices.frozen());
    if (flat) {
      requireSubGroupsAgree(states, optimizers.get(0), source);
      StagePlanner.toFlat(plan, this, read);
      return;
    }
    if (other.isPresent()) {
      requireSubGroupsAgree(states, optimizers.get(0), source);
      other.get().addSharded(read, subGroupSize);
      return;
    }
    ShardedLayout shardedTarget = (ShardedLayout) target;
    if (!source.hasBoundariesOf(shardedTarget)) {
      requireSubGroupsAgree(states, optimizers.get(0), source);
    }
    List<String> dsIds =
        ParameterIds.labels(
            parameterNames(first), first.tiedNames(), source, states.dsIds(), shardedTarget);
    Contents contents = new Contents(mpRank, new Shared<>(), new Shared<>());
    for (int rank = 0; rank < plan.targetWorldSize; rank++) {
      planFiles(rank, models, optimizers, indices, dsIds, contents);
    }
  }

  public static PartitionedModel model(int mpRank, ZeroLayout source, ZeroLayout target) {
    return new PartitionedModel(
        mpRank,
        ParamId.NO_EXPERT,
        source,
        target,
        new ArrayList<>(),
        new HashMap<>(),
        new HashMap<>(),
        new ArrayList<ModuleWeight>(Collections.nCopies(source.parameters().size(), null)));
  }

  /** The names in {@code module} that are of parameters, as far as the file lists these. */
  private static List<String> parameterNames(ModelStates model) {
    Set<String> listed = new HashSet<>(model.tiedNames());
    model.flatGroups().forEach(group -> group.forEach(p -> listed.add(p.name())));
    model.frozen().forEach(p -> listed.add(p.name()));
    boolean all = model.root().findPresent(ModelStates.FROZEN_SHAPES).isPresent();
    Set<String> buffers = model.bufferNames();
    return model.module().keySet().stream()
        .filter(name -> !buffers.contains(name) && (!all || listed.contains(name)))
        .toList();
  }

  /**
   * The frozen parameters whose fragments are pieces. Those that ZeRO-3 does not partition (LoRA's
   * base weights) are in the module in full, and whole on every rank (runtime/engine.py, {@code
   * _get_zero_frozen_param_attributes}).
   */
  public static List<Parameter> partitionedFrozen(ModelStates model) {
    Map<String, TensorNode> module = model.module();
    Map<String, PickledValue> fragments = model.frozenFragments();
    List<Parameter> partitioned = new ArrayList<>();
    for (Parameter parameter : model.frozen()) {
      PickledValue fragment = fragments.get(parameter.name());
      TensorNode weight = module.get(parameter.name());
      if (fragment == null) {
        throw model
            .root()
            .get(ModelStates.FROZEN_SHAPES)
            .refused(
                "%s has no piece in %s. The file is damaged."
                    .formatted(parameter.name(), ModelStates.FROZEN_FRAGMENTS));
      }
      boolean whole =
          weight != null
              && parameter.elements() > 0
              && weight.numel() == parameter.elements()
              && fragment.tensor().numel() == parameter.elements();
      if (!whole) {
        partitioned.add(new Parameter(parameter.name(), parameter.shape(), partitioned.size()));
      }
    }
    return partitioned;
  }

  /** A partition in a file, and so in every file that says the same. */
  private record Located(int bucket, String state, PickledValue tensor) {}

  /** Notes where the partitions of {@code rank} are. */
  private void addPartitions(int rank, RankFile file, List<Located> located, int model) {
    for (Located partition : located) {
      plan.models
          .get(model)
          .sourcePartitions()
          .put(
              new Partition(rank, partition.bucket(), partition.state()),
              plan.address(
                  file.source(),
                  file.file(),
                  file.file().path() + ", " + partition.tensor().path(),
                  partition.tensor().tensor()));
    }
  }

  /** Checks the optimizer file of {@code rank} and notes where its partitions are. */
  public void addPartitions(int rank, RankFile file, int model) {
    addPartitions(rank, file, partitions(file, plan.models.get(model)), model);
  }

  /** Checks an optimizer file against the layout and finds its sub-groups. */
  private static List<Located> partitions(RankFile file, PartitionedModel model) {
    List<Located> located = new ArrayList<>();
    ShardedStates states = new ShardedStates(root(file));
    ShardedLayout layout = (ShardedLayout) model.source();
    PickledValue count = states.stateDict().get(OptimizerFile.PARTITION_COUNT);
    if (count.asLong() != layout.worldSize()) {
      throw count.refused(
          "expected %d, the dp_world_size of the model files, found %d. With mics_shard_size this is a checkpoint of MiCS, which is not supported; else the files do not belong together."
              .formatted(layout.worldSize(), count.asLong()));
    }
    if (states.flatGroups().items().size() != layout.buckets()) {
      throw states
          .flatGroups()
          .refused(
              "expected %d sub-groups as in param_shapes, found %d."
                  .formatted(layout.buckets(), states.flatGroups().items().size()));
    }
    List<PickledValue> tensors = new ArrayList<>();
    for (int b = 0; b < layout.buckets(); b++) {
      Map<String, DType> types = new LinkedHashMap<>();
      Map<String, PickledValue> partitions = states.partitions(layout, b);
      for (Map.Entry<String, PickledValue> partition : partitions.entrySet()) {
        PickledValue value = partition.getValue();
        types.put(partition.getKey(), value.tensor().dtype());
        tensors.add(value);
        located.add(new Located(b, partition.getKey(), value));
      }
      int group = layout.groupOf(b);
      while (model.states().size() < group) {
        model.states().add(Map.of());
      }
      if (model.states().size() == group) {
        model.states().add(types);
      } else if (!types.equals(model.states().get(group))) {
        throw new RefusedException(
            file.file().path(),
            "sub-group %d has the states %s, another of its param group has %s. The files are of different runs."
                .formatted(b, types, model.states().get(group)));
      }
    }
    OtherViews.requireNone(states.root(), tensors);
    StateTensors.requireOthersReplicated(states.stateDict(), tensors);
    return located;
  }

  /** Checks the fragments of a model file and finds them. */
  private static List<Located> fragments(RankFile file, ModelStates first, PartitionedModel model) {
    List<Located> located = new ArrayList<>();
    ShardedLayout layout = (ShardedLayout) model.source();
    Map<String, PickledValue> fragments = new ModelStates(root(file)).frozenFragments();
    Map<String, TensorNode> module = first.module();
    for (int p = 0; p < layout.parameters().size(); p++) {
      String name = layout.parameters().get(p).name();
      PickledValue fragment = fragments.get(name);
      if (fragment == null) {
        throw new RefusedException(
            file.file().path(),
            "has no piece of the frozen parameter %s, rank 0's file has one.".formatted(name));
      }
      TensorNode tensor = fragment.tensor();
      if (tensor.shape().length != 1
          || tensor.numel() != layout.bucketElements(p)
          || !tensor.isContiguous()) {
        throw fragment.refused(
            "expected the %d elements of this rank's piece, found a tensor of shape %s."
                .formatted(layout.bucketElements(p), Arrays.toString(tensor.shape())));
      }
      ShardedKinds.requireNotQuantized(fragment, module.get(name));
      if (model.states().size() == p) {
        model.states().add(Map.of(States.FROZEN, tensor.dtype()));
      } else if (model.states().get(p).get(States.FROZEN) != tensor.dtype()) {
        throw fragment.refused(
            "is of type %s, rank 0's of %s."
                .formatted(tensor.dtype(), model.states().get(p).get(States.FROZEN)));
      }
      located.add(new Located(p, States.FROZEN, fragment));
    }
    return located;
  }

  public void requireReplicasAgree(
      List<RankFile> models,
      List<RankFile> optimizers,
      ShardedLayout source,
      List<Parameter> frozen)
      throws IOException {
    ReplicaComparison comparison =
        new ReplicaComparison(
            plan.store,
            plan.sources,
            file -> ShardedOptimizerRewrite.rewrite(file, source, source, List.of()));
    for (int rank = 0; rank < optimizers.size(); rank++) {
      RankFile file = optimizers.get(rank);
      comparison.add(rank, file.source(), file.file()).ifPresent(plan.notes::add);
    }
    ModelFileComparison ofModels =
        new ModelFileComparison(frozen.stream().map(Parameter::name).toList());
    for (int rank = 0; rank < models.size(); rank++) {
      ofModels.add(rank, models.get(rank).file());
    }
    ofModels.note().ifPresent(plan.notes::add);
  }

  /**
   * When boundaries move, a sub-group takes what is not partitioned from another one of its param
   * group, so all of these must have the same.
   */
  public void requireSubGroupsAgree(ShardedStates states, RankFile file, ShardedLayout layout)
      throws IOException {
    for (int b = 1; b < layout.buckets(); b++) {
      if (layout.groupOf(b) != layout.groupOf(b - 1)) {
        continue;
      }
      Optional<PickledValue> before = states.state(b - 1);
      Optional<PickledValue> here = states.state(b);
      if (before.isEmpty() || here.isEmpty()) {
        if (before.isPresent() != here.isPresent()) {
          throw states
              .state()
              .refused(
                  "only one of the sub-groups %d and %d of a param group has state."
                      .formatted(b - 1, b));
        }
        continue;
      }
      Map<String, PickledValue> partitions = states.partitions(layout, b);
      Set<PyObject> cut = Collections.newSetFromMap(new IdentityHashMap<>());
      partitions.values().forEach(partition -> cut.add(partition.node()));
      Optional<String> difference =
          PyEquality.firstDifference(
              before.get().node(),
              here.get().node(),
              (a, other) -> cut.contains(other) || sameTensors(file, a, other));
      if (difference.isPresent()) {
        throw here.get()
            .refused(
                "differs from that of sub-group %d of the same param group (%s), and at %d ranks the boundaries between them move."
                    .formatted(b - 1, difference.get(), plan.targetWorldSize));
      }
    }
  }

  private boolean sameTensors(RankFile file, PyObject a, PyObject b) {
    Optional<TensorNode> first = TensorNode.of(a);
    Optional<TensorNode> second = TensorNode.of(b);
    try {
      return first.isPresent()
          && second.isPresent()
          && ReplicaComparison.sameBytes(
              plan, file.source(), file.file(), first.get(), second.get());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /**
   * What the files of an mp rank say.
   *
   * @param mpRank which mp rank
   * @param kept for ranks on both sides
   * @param lent for ranks that are made like rank 0
   */
  private record Contents(
      int mpRank, Shared<TorchTarget.Pickled> kept, Shared<TorchTarget.Pickled> lent) {}

  private void planFiles(
      int rank,
      List<RankFile> models,
      List<RankFile> optimizers,
      Models indices,
      List<String> dsIds,
      Contents contents) {
    int templateRank = rank < models.size() ? rank : 0;
    RankFile model = models.get(templateRank);
    planFile(
        model,
        templateRank,
        rank,
        new ShardedModelRecipe(
            model.source(), rank, indices.trained(), indices.frozen(), templateRank == rank),
        indices.frozen(),
        contents);
    RankFile optimizer = optimizers.get(templateRank);
    planFile(
        optimizer,
        templateRank,
        rank,
        new ShardedOptimizerRecipe(optimizer.source(), rank, indices.trained(), dsIds),
        indices.trained(),
        contents);
  }

  /**
   * @param partitioned the model whose partitions the file holds
   */
  private void planFile(
      RankFile template,
      int templateRank,
      int rank,
      TorchRecipe recipe,
      int partitioned,
      Contents contents) {
    String name =
        CheckpointFiles.nameOf(
            plan.sources.get(template.source()).stat().name(), rank, contents.mpRank());
    TorchTarget.Pickled content =
        (templateRank == rank ? contents.kept() : contents.lent())
            .get(
                template,
                () ->
                    TorchTarget.pickled(
                        template.file(), recipe, plan.models, plan.targetWorldSize));
    planFile(template, rank, plan.files.tag() + "/" + name, recipe, content, partitioned);
  }

  /**
   * Plans a file of a target rank.
   *
   * @param path where it goes, relative to the output
   * @param content what it says
   * @param partitioned the model whose partitions the file holds
   */
  public void planFile(
      RankFile template,
      int rank,
      String path,
      TorchRecipe recipe,
      TorchTarget.Pickled content,
      int partitioned) {
    TorchTarget.Planned planned =
        TorchTarget.plan(
            template.file(),
            path.substring(path.lastIndexOf('/') + 1),
            content,
            plan.sourceWorldSize(),
            plan.targetWorldSize);
    PlanBuilder.Written written =
        plan.addTarget(path, recipe, planned, template.source(), template.file());
    for (int e = 0; e < planned.storages().size(); e++) {
      Rewritten.Storage storage = planned.storages().get(e);
      Address begin = written.storages().get(e);
      if (storage.content() instanceof Rewritten.Content.PartitionOf partition) {
        plan.models
            .get(partitioned)
            .targetPartitions()
            .put(new Partition(rank, partition.group(), partition.state()), begin);
      }
    }
  }
}
