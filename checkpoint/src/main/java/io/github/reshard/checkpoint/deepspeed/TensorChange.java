package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.parallel.Division;
import io.github.reshard.checkpoint.parallel.Recut;
import io.github.reshard.checkpoint.parallel.RuleFile;
import io.github.reshard.checkpoint.parallel.TensorDegree;
import io.github.reshard.checkpoint.parallel.TensorRules;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.TensorParallelLayout;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * Changes the number of tensor-parallel ranks of a training state: what its ranks have of each
 * parameter is joined, and shares of it are given to those of the target.
 */
public final class TensorChange {
  /** The key of a model file that says how tensor-parallel ranks share the parameters. */
  public static final String INFO = "universal_checkpoint_info";

  /** Of how many elements of a parameter the ranks are compared. */
  private static final long COMPARED_ELEMENTS = 4096;

  /** What to do instead of it. */
  public static final String AS_SAVED = "Leave --targetTensorParallelSize out.";

  private final TrainingState state;
  private final List<ModelPart> parts;
  private final Optional<RuleFile> rules;
  private final String instead;

  private TensorChange(
      TrainingState state, List<ModelPart> parts, Optional<RuleFile> rules, String instead) {
    this.state = state;
    this.parts = parts;
    this.rules = rules;
    this.instead = instead;
  }

  /**
   * What ranks have of each parameter, joined.
   *
   * @param set the parameters with their full shapes, without rows behind the end of a vocabulary
   * @param rules how ranks share them
   */
  public record Joined(ParameterSet set, TensorRules rules) {}

  /**
   * Joins what tensor-parallel ranks have of each parameter, for a format that knows no ranks.
   *
   * @param parts the ranks, which have the same parameters
   * @param instead what to do where that cannot be, a sentence
   * @throws RefusedException if it cannot be told how a parameter is cut, or the ranks do not
   *     belong together
   */
  public static Joined join(TrainingState state, List<ModelPart> parts, String instead)
      throws IOException {
    TensorChange change = new TensorChange(state, parts, Optional.empty(), instead);
    change.requireJoinable();
    TensorRules rules = change.rules();
    TensorDegree degree =
        TensorDegree.joining(
            state.checkpoint(), rules, change.division(rules, Division.Heads.UNKNOWN));
    List<ParameterSet> sets = parts.stream().map(state::trained).toList();
    change.requireLike(sets);
    return new Joined(change.joined(0, sets, change.recuts(degree, sets), 1), rules);
  }

  /**
   * The same state for other tensor-parallel ranks.
   *
   * @throws RefusedException if it cannot be told how a parameter is cut, or the ranks do not
   *     belong together
   */
  public static TrainingState of(TrainingState state, TensorRequest request) throws IOException {
    return new TensorChange(state, state.parts(), request.rules(), AS_SAVED).changed(request);
  }

  private RefusedException refused(String problem) {
    return new RefusedException(state.checkpoint(), problem);
  }

  private TrainingState changed(TensorRequest request) throws IOException {
    int savedRanks = Conversions.hasLayers(state) ? LayerFiles.tensorRanks(state) : parts.size();
    requireTensorRanks(savedRanks);
    requireJoinable();
    TensorRules found = rules();
    TensorDegree degree =
        new TensorDegree(
            state.checkpoint(),
            found,
            division(found, request.heads()),
            request.ranks(),
            request.vocabularyMultiple(),
            request.strips());
    int stages = parts.size() / savedRanks;
    List<ModelPart> changed = new ArrayList<>();
    List<ParameterSet> joined = new ArrayList<>();
    List<ParameterSet> frozen = new ArrayList<>();
    for (int stage = 0; stage < stages; stage++) {
      List<ModelPart> ofStage = parts.subList(stage * savedRanks, (stage + 1) * savedRanks);
      List<ParameterSet> sets = ofStage.stream().map(state::trained).toList();
      joined.add(joined(stage, sets, recuts(degree, sets), request.ranks()));
      List<ParameterSet> untrained = FrozenSets.ofRanks(state, ofStage);
      OptionalInt index = OptionalInt.empty();
      if (!untrained.isEmpty()) {
        index = OptionalInt.of(stages + frozen.size());
        frozen.add(joined(stage, untrained, recuts(degree, untrained), request.ranks()));
      }
      for (int to = 0; to < request.ranks(); to++) {
        int from = to < savedRanks ? to : 0;
        ModelPart template = ofStage.get(from);
        changed.add(
            new ModelPart(
                stage * request.ranks() + to,
                template.model(),
                template.optimizers(),
                template.reading(),
                List.of(stage),
                index,
                Optional.of(new TensorParts(ofStage, sets, degree, from, to))));
      }
    }
    joined.addAll(frozen);
    return state.with(ModelParallelism.of(stages, request.ranks()), changed, joined);
  }

  private void requireTensorRanks(int savedRanks) {
    ModelParallelism saved = state.parallelism().source();
    if (saved.sequenceDegree() > 1) {
      throw refused(
          "%d of its ranks share each sequence and none shares parameters: that is no tensor parallelism. Leave --targetTensorParallelSize out."
              .formatted(saved.sequenceDegree()));
    }
    if (parts.size() % savedRanks != 0
        || (saved.tensorDegree() > 0 && saved.tensorDegree() != savedRanks)) {
      throw refused(
          "it says a tensor-parallel size of %d, and has files of %d of %d model-parallel ranks. Leave --targetTensorParallelSize out."
              .formatted(saved.tensorDegree(), savedRanks, parts.size()));
    }
  }

  private void requireJoinable() {
    for (ModelPart part : parts) {
      if (part.trained().size() != 1 || state.trained(part).expertRank() != ParamId.NO_EXPERT) {
        throw refused(
            "it has a mixture of experts, whose tensor-parallel ranks cannot be joined. "
                + instead);
      }
      if (part.model().isEmpty()) {
        throw refused("it has no model files, which say how parameters are cut.");
      }
      if (!state.trained(part).whole().isEmpty()) {
        throw refused(
            "its optimizer is Muon, which keeps whole matrices of each tensor-parallel rank. "
                + instead);
      }
    }
  }

  /** Sub-groups are numbered within a rank; a set of parameters has one numbering. */
  private void requireLike(List<ParameterSet> sets) {
    ZeroLayout first = sets.get(0).layout();
    for (int rank = 1; rank < sets.size(); rank++) {
      ZeroLayout other = sets.get(rank).layout();
      boolean same = other.buckets() == first.buckets();
      for (int bucket = 0; same && bucket < first.buckets(); bucket++) {
        same = other.groupOf(bucket) == first.groupOf(bucket);
      }
      if (!same) {
        throw refused(
            "tensor-parallel rank %d has %d sub-groups where rank 0 has %d, and such ranks are not joined. %s"
                .formatted(rank, other.buckets(), first.buckets(), instead));
      }
    }
  }

  private PickledValue root(int rank) {
    return parts.get(rank).model().orElseThrow().root();
  }

  private TensorRules rules() {
    Optional<PickledValue> info = root(0).findPresent(INFO).filter(PickledValue::isDict);
    for (int rank = 1; rank < parts.size(); rank++) {
      PickledValue other = root(rank);
      Optional<String> difference =
          PyEquality.firstDifference(
              info.map(PickledValue::node).orElse(root(0).node()),
              other.findPresent(INFO).map(PickledValue::node).orElse(other.node()));
      if (info.isPresent() && difference.isPresent()) {
        throw other.refused(
            "%s is not that of the first rank: %s. The files are of different checkpoints."
                .formatted(INFO, difference.get()));
      }
    }
    if (info.isPresent() && rules.isPresent()) {
      throw refused(
          "it says itself how its parameters are cut (%s). Leave --tpRules out.".formatted(INFO));
    }
    if (info.isEmpty() && rules.isEmpty()) {
      throw refused(
          "nothing in it says how its parameters are cut among tensor-parallel ranks (%s). Give --tpRules=FILE.json, or the name of one that comes with the program."
              .formatted(INFO));
    }
    return info.map(TensorRules::ofCheckpoint).orElseGet(() -> rules.get().rules());
  }

  private Division division(TensorRules found, Division.Heads heads) {
    Optional<DsConfig> config = DsConfig.ifStored(root(0));
    boolean autoTp =
        found.isAutoTp()
            || rules.filter(RuleFile::isAutoTp).isPresent()
            || config.flatMap(DsConfig::tensorParallelSize).isPresent();
    int grain = config.map(DsConfig::tensorGrain).orElse(1);
    return autoTp ? new Division.AutoTp(heads, grain) : new Division.Even();
  }

  private List<Recut> recuts(TensorDegree degree, List<ParameterSet> sets) throws IOException {
    List<Parameter> first = sets.get(0).parameters();
    for (int rank = 1; rank < sets.size(); rank++) {
      List<Parameter> others = sets.get(rank).parameters();
      boolean same = first.size() == others.size();
      for (int p = 0; same && p < first.size(); p++) {
        same =
            first.get(p).name().equals(others.get(p).name())
                && first.get(p).group() == others.get(p).group();
      }
      if (!same || !sets.get(rank).states().equals(sets.get(0).states())) {
        throw refused(
            "tensor-parallel rank %d has other parameters, param groups or states than rank 0. The files are of different runs."
                .formatted(rank));
      }
    }
    List<Recut> recuts = new ArrayList<>();
    for (int p = 0; p < first.size(); p++) {
      int parameter = p;
      recuts.add(
          degree.recut(
              first.get(p).name(),
              sets.stream().map(set -> set.parameters().get(parameter).shape()).toList()));
      if (recuts.get(p).sharing() == Recut.Sharing.CUT) {
        requireParts(p, sets);
      }
    }
    return recuts;
  }

  /**
   * Parts of a parameter are never alike, but for such as are one number throughout. Where they
   * are, every rank has all of it, and the rule is wrong: the patterns of early AutoTP do not name
   * what it left whole.
   */
  private void requireParts(int parameter, List<ParameterSet> sets) throws IOException {
    ByteBuffer first = null;
    int width = 0;
    for (ParameterSet set : sets) {
      Parameter own = set.parameters().get(parameter);
      List<Extent> extents = set.layout().extentsOf(parameter);
      if (extents.isEmpty()
          || !own.shape().equals(sets.get(0).parameters().get(parameter).shape())) {
        return;
      }
      Extent begin = extents.get(0);
      Map<String, DType> states = set.statesOf(parameter);
      String compared = states.containsKey(States.MASTER) ? States.MASTER : States.FROZEN;
      width = states.get(compared).bytes();
      Address partition =
          set.partitions().get(new Partition(begin.rank(), begin.bucket(), compared));
      long elements = Math.min(begin.elements(), COMPARED_ELEMENTS);
      ByteBuffer content =
          state
              .store()
              .read(
                  state.sources().get(partition.file()).stat(),
                  partition.offset() + begin.bucketStart() * width,
                  elements * width);
      if (first != null && !first.equals(content)) {
        return;
      }
      first = content;
    }
    if (sets.size() > 1 && !isOneNumber(first, width)) {
      throw refused(
          "%s is cut among its tensor-parallel ranks by all that is said of it, and has the same numbers on each, as if every rank had all of it. A pattern is missing or wrong."
              .formatted(sets.get(0).parameters().get(parameter).name()));
    }
  }

  private static boolean isOneNumber(ByteBuffer elements, int width) {
    for (int i = width; i < elements.remaining(); i++) {
      if (elements.get(i) != elements.get(i % width)) {
        return false;
      }
    }
    return true;
  }

  private ParameterSet joined(
      int stage, List<ParameterSet> sets, List<Recut> recuts, int targetRanks) {
    List<Parameter> first = sets.get(0).parameters();
    List<Parameter> full = new ArrayList<>();
    for (int p = 0; p < first.size(); p++) {
      full.add(new Parameter(first.get(p).name(), recuts.get(p).shape(), first.get(p).group()));
    }
    List<List<LocalTensor>> locals = new ArrayList<>();
    for (int rank = 0; rank < sets.size(); rank++) {
      int own = rank;
      locals.add(recuts.stream().map(recut -> recut.source().get(own)).toList());
    }
    TensorParallelLayout layout =
        new TensorParallelLayout(full, locals, sets.stream().map(ParameterSet::layout).toList());
    Map<Partition, Address> partitions = new HashMap<>();
    for (int rank = 0; rank < sets.size(); rank++) {
      int before = rank * sets.get(0).layout().worldSize();
      sets.get(rank)
          .partitions()
          .forEach(
              (of, address) ->
                  partitions.put(
                      new Partition(before + of.rank(), of.bucket(), of.state()), address));
    }
    List<ParameterSet.Share> shares = new ArrayList<>();
    for (int rank = 0; rank < targetRanks; rank++) {
      int own = rank;
      shares.add(
          new ParameterSet.Share(
              stage * targetRanks + rank,
              recuts.stream().map(recut -> recut.target().get(own)).toList()));
    }
    return new ParameterSet(
        stage * targetRanks,
        ParamId.NO_EXPERT,
        layout,
        sets.get(0).states(),
        partitions,
        weights(sets),
        new HashSet<>(),
        shares);
  }

  private List<ModuleWeight> weights(List<ParameterSet> sets) {
    List<ModuleWeight> weights = new ArrayList<>();
    for (int p = 0; p < sets.get(0).weights().size(); p++) {
      int parameter = p;
      List<ModuleWeight> ofRanks = new ArrayList<>();
      sets.forEach(set -> ofRanks.add(set.weights().get(parameter)));
      ModuleWeight first = ofRanks.get(0);
      for (ModuleWeight other : ofRanks) {
        if ((first == null) != (other == null)
            || (first != null && other.dtype() != first.dtype())) {
          throw refused(
              "%s is not in the model files of all tensor-parallel ranks, or of another type there."
                  .formatted(sets.get(0).parameters().get(p).name()));
        }
      }
      weights.add(
          first == null
              ? null
              : new ModuleWeight(
                  first.dtype(), ofRanks.stream().map(ModuleWeight::source).toList(), List.of()));
    }
    return weights;
  }
}
