package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.parallel.Division;
import io.github.reshard.checkpoint.parallel.Recut;
import io.github.reshard.checkpoint.parallel.TensorDegree;
import io.github.reshard.checkpoint.parallel.TensorRules;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.TensorParallelLayout;
import io.github.reshard.checkpoint.state.WholeTensors;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * Tensor-parallel ranks, each of which has a part of the parameters under the same names, as the
 * one model that they are together. How parts belong together is what {@code
 * universal_checkpoint_info} says; copies are proven to be alike.
 */
final class TensorJoin {
  private static final String INFO = "universal_checkpoint_info";

  private final ReshardPlan source;
  private final TensorDegree degree;

  private TensorJoin(ReshardPlan source, TensorDegree degree) {
    this.source = source;
    this.degree = degree;
  }

  /**
   * How the ranks of {@code files} are joined; none where no two of them have the same parameters.
   *
   * @param source the plan of the same files for the ranks that saved them
   * @throws RefusedException if they have, and nothing says how they belong together
   */
  static Optional<TensorJoin> of(ReshardPlan source, SourceStore store, CheckpointFiles files)
      throws IOException {
    List<PartitionedModel> trained = ranks(source, false);
    boolean alike = trained.stream().allMatch(model -> names(model).equals(names(trained.get(0))));
    if (trained.isEmpty() || !alike || !files.layers().isEmpty()) {
      return Optional.empty();
    }
    List<FileStat> models = new ArrayList<>(files.models().values());
    files.rankModels().values().forEach(ranks -> models.add(ranks.get(ranks.firstKey())));
    PickledValue first = null;
    for (FileStat stat : models) {
      Optional<PickledValue> said = info(store, stat);
      if (said.isEmpty() && trained.size() == 1) {
        return Optional.empty();
      }
      PickledValue info = said.orElseThrow(() -> unknown(source, stat));
      if (first == null) {
        first = info;
      } else {
        Optional<String> difference = PyEquality.firstDifference(first.node(), info.node());
        if (difference.isPresent()) {
          throw info.refused(
              "is not that of the first rank: %s. The files are of different checkpoints."
                  .formatted(difference.get()));
        }
      }
    }
    TensorRules rules = TensorRules.ofCheckpoint(first);
    if (trained.size() == 1 && names(trained.get(0)).stream().noneMatch(rules::isOfVocabulary)) {
      return Optional.empty();
    }
    Division division =
        rules.isAutoTp() ? new Division.AutoTp(Division.Heads.UNKNOWN, 1) : new Division.Even();
    return Optional.of(
        new TensorJoin(source, TensorDegree.joining(source.checkpoint(), rules, division)));
  }

  private static Optional<PickledValue> info(SourceStore store, FileStat stat) throws IOException {
    TorchFile file;
    try (RangedFile open = store.open(stat)) {
      file = TorchFile.read(open);
    }
    return PickledValue.root(file.path(), file.parse().root())
        .findPresent(INFO)
        .filter(PickledValue::isDict);
  }

  private static RefusedException unknown(ReshardPlan source, FileStat stat) {
    return new RefusedException(
        source.checkpoint(),
        "more than one model-parallel rank holds %s, and nothing in %s says how the parts belong together (%s). Make one rank of them with --targetTensorParallelSize=1 and --tpRules, which says how, and export that."
            .formatted(ranks(source, false).get(0).parameters().get(0).name(), stat.name(), INFO));
  }

  private static List<PartitionedModel> ranks(ReshardPlan source, boolean frozen) {
    return source.models().stream()
        .filter(model -> model.expertRank() == ParamId.NO_EXPERT)
        .filter(model -> model.isFrozen() == frozen)
        .toList();
  }

  private static List<String> names(PartitionedModel model) {
    return model.parameters().stream().map(Parameter::name).toList();
  }

  /** The plan with one model in the place of those of all ranks. */
  ReshardPlan joined() {
    List<PartitionedModel> models = new ArrayList<>();
    for (boolean frozen : new boolean[] {false, true}) {
      List<PartitionedModel> ranks = ranks(source, frozen);
      if (!ranks.isEmpty()) {
        models.add(joined(ranks));
      }
    }
    if (source.models().stream().anyMatch(model -> model.expertRank() != ParamId.NO_EXPERT)) {
      throw new RefusedException(
          source.checkpoint(),
          "it has experts on tensor-parallel ranks, and it is not known how these belong"
              + " together.");
    }
    return new ReshardPlan(
        source.checkpoint(),
        source.tag(),
        source.sourceWorldSize(),
        source.targetWorldSize(),
        source.parallelism(),
        source.sources(),
        source.targets(),
        models,
        source.carried(),
        source.padding(),
        source.evidence(),
        source.notes(),
        source.partBytes());
  }

  private PartitionedModel joined(List<PartitionedModel> ranks) {
    PartitionedModel first = ranks.get(0);
    List<Parameter> full = new ArrayList<>();
    List<List<LocalTensor>> locals = new ArrayList<>();
    ranks.forEach(rank -> locals.add(new ArrayList<>()));
    for (int p = 0; p < first.parameters().size(); p++) {
      Parameter parameter = first.parameters().get(p);
      int index = p;
      Recut recut =
          recut(
              parameter.name(),
              ranks.stream().map(rank -> rank.parameters().get(index).shape()).toList());
      full.add(new Parameter(parameter.name(), recut.shape(), parameter.group()));
      for (int rank = 0; rank < ranks.size(); rank++) {
        locals.get(rank).add(recut.source().get(rank));
      }
    }
    List<ZeroLayout> layouts = new ArrayList<>();
    Map<Partition, Address> partitions = new HashMap<>();
    for (int rank = 0; rank < ranks.size(); rank++) {
      PartitionedModel of = ranks.get(rank);
      requireLike(first, of);
      layouts.add(of.source());
      int begin = rank * of.source().worldSize();
      of.sourcePartitions()
          .forEach(
              (at, address) ->
                  partitions.put(
                      new Partition(begin + at.rank(), at.bucket(), at.state()), address));
    }
    List<ModuleWeight> weights = new ArrayList<>();
    for (int p = 0; p < full.size(); p++) {
      weights.add(weight(ranks, p));
    }
    return new PartitionedModel(
        0,
        ParamId.NO_EXPERT,
        new TensorParallelLayout(full, locals, layouts),
        new WholeTensors(full),
        first.states(),
        partitions,
        new HashMap<>(),
        weights);
  }

  private void requireLike(PartitionedModel first, PartitionedModel other) {
    boolean same =
        names(first).equals(names(other))
            && first.states().equals(other.states())
            && first.source().worldSize() == other.source().worldSize()
            && first.source().buckets() == other.source().buckets();
    if (!same) {
      throw new RefusedException(
          source.checkpoint(),
          "mp rank %d has other parameters, param groups, sub-groups or states than mp rank %d, and it is not known how such ranks are joined."
              .formatted(other.mpRank(), first.mpRank()));
    }
    if (!first.whole().isEmpty() || !other.whole().isEmpty()) {
      throw new RefusedException(
          source.checkpoint(),
          "its optimizer is Muon, which keeps whole matrices of each tensor-parallel rank: these"
              + " are not joined.");
    }
  }

  private ModuleWeight weight(List<PartitionedModel> ranks, int parameter) {
    List<Address> sources = new ArrayList<>();
    ModuleWeight first = ranks.get(0).weights().get(parameter);
    for (PartitionedModel rank : ranks) {
      ModuleWeight own = rank.weights().get(parameter);
      if (own != null && own.source() != null && own.dtype() == first.dtype()) {
        sources.add(own.source());
      }
    }
    if (first == null || sources.size() < ranks.size()) {
      return null;
    }
    return new ModuleWeight(first.dtype(), sources, List.of()).dropped();
  }

  /** How each trained parameter is put together, by its name. */
  Map<String, Recut> recuts() {
    List<PartitionedModel> ranks = ranks(source, false);
    Map<String, Recut> recuts = new HashMap<>();
    for (int p = 0; p < ranks.get(0).parameters().size(); p++) {
      int index = p;
      String name = ranks.get(0).parameters().get(p).name();
      recuts.put(
          name,
          recut(name, ranks.stream().map(rank -> rank.parameters().get(index).shape()).toList()));
    }
    return recuts;
  }

  /**
   * How a tensor is put together.
   *
   * @param saved the shape that each rank has
   */
  Recut recut(String name, List<List<Long>> saved) {
    return degree.recut(name, saved);
  }
}
