package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.DsVersion;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;

/**
 * The param groups of a native mixture of experts that DeepSpeed before 0.19.3 saved. Its model
 * file has neither {@code param_shapes} nor {@code ds_config} (runtime/engine.py, {@code
 * _save_moe_checkpoint}). Names and order are in the {@code param_slice_mappings} of all ranks, and
 * shapes are those of the weights: in {@code module}, and in the experts' own files.
 *
 * <p>Up to 0.14.4 DeepSpeedZeroOptimizer cuts the mappings of experts' groups by the number of all
 * ranks ({@code _link_all_hp_params}, runtime/zero/stage_1_and_2.py), so that they name only the
 * first parameters. Where those that follow lie is found by their weights ({@link ExpertOrder}).
 */
public final class ExpertGroups {
  /** No version before it has {@code use_data_before_expert_parallelism}. */
  private static final DsVersion DATA_FIRST = new DsVersion(0, 10, 0);

  private final DeepSpeedReading reading;
  private final ExpertFiles experts;
  private final ReadFile file;
  private final ModelStates model;
  private final Map<String, TensorNode> module;
  private final List<Shard> shards;
  private final OptimizerStates first;
  private final ExpertMappings mappings;

  private ExpertGroups(
      DeepSpeedReading reading, ExpertFiles experts, ReadFile file, List<Shard> shards) {
    this.reading = reading;
    this.experts = experts;
    this.file = file;
    this.model = new ModelStates(file.root());
    this.module = model.module();
    this.shards = shards;
    this.first = shards.get(0).states();
    this.mappings = new ExpertMappings(reading, shards);
  }

  /**
   * The groups.
   *
   * @param shards of all ranks, in order
   * @throws RefusedException if the files contradict each other, or leave open what is where
   */
  static ParamGroups of(
      DeepSpeedReading reading, ExpertFiles experts, ReadFile file, List<Shard> shards)
      throws IOException {
    return new ExpertGroups(reading, experts, file, shards).groups();
  }

  private ParamGroups groups() throws IOException {
    mappings.require();
    Optional<DsConfig> config = DsConfig.ifStored(first.root());
    if (config.isPresent()) {
      return groups(
          config.get().roundRobin() && !first.isBf16Optimizer(), config.get().dataBeforeExperts());
    }
    return unconfigured();
  }

  /** The groups if {@code ds_config} is the path of a file, as {@code initialize} was given it. */
  private ParamGroups unconfigured() throws IOException {
    List<ParamGroups> fitting = new ArrayList<>();
    RefusedException refused = null;
    for (boolean roundRobin : first.isBf16Optimizer() ? List.of(false) : List.of(false, true)) {
      for (boolean dataFirst :
          mappings.isAtLeast(DATA_FIRST) ? List.of(false, true) : List.of(false)) {
        try {
          ParamGroups groups = groups(roundRobin, dataFirst);
          requireFit(groups);
          fitting.add(groups);
        } catch (RefusedException e) {
          refused = refused == null ? e : refused;
        }
      }
    }
    if (fitting.isEmpty()) {
      throw refused;
    }
    for (ParamGroups other : fitting) {
      requireAlike(fitting.get(0), other);
    }
    return fitting.get(0);
  }

  /**
   * At few ranks or with few parameters all orders are the same, but not at another number.
   *
   * @throws RefusedException if the target would be another for {@code other}
   */
  private void requireAlike(ParamGroups one, ParamGroups other) {
    int target = reading.targetWorldSize();
    boolean divided =
        one.expertParallelSizes().stream().allMatch(size -> target % Math.max(1, size) == 0);
    boolean turned = turned(one);
    if (!turned && (target == shards.size() || !divided)) {
      return;
    }
    boolean reordered =
        one.roundRobin() != other.roundRobin()
            && (turned
                || ShardGroups.orderMatters(one, shards.size())
                || ShardGroups.orderMatters(one, target)
                || ShardGroups.orderMatters(other, shards.size()));
    boolean placed =
        one.dataFirst() != other.dataFirst()
            && (turned
                || one.expertParallelSizes().stream().anyMatch(size -> size > 1 && target > size));
    if (reordered || placed) {
      throw first
          .root()
          .refused(
              "ds_config is not stored, only the path of its file, and the weights fit a run with %s as well as one without, which differ at %d ranks. Save the checkpoint once from a run whose config is given as a dict."
                  .formatted(
                      reordered ? "round_robin_gradients" : "use_data_before_expert_parallelism",
                      target));
    }
  }

  /** Whether the target's experts are divided among another number of ranks. */
  private boolean turned(ParamGroups groups) {
    OptionalInt experts = reading.targetExperts();
    return experts.isPresent()
        && groups.expertParallelSizes().stream()
            .anyMatch(size -> size != ParamGroups.DENSE && size != experts.getAsInt());
  }

  /** Checks that the masters in this order give the weights, at either end of each. */
  private void requireFit(ParamGroups groups) throws IOException {
    for (int g = 0; g < groups.groups().size(); g++) {
      List<Parameter> parameters = groups.groups().get(g).parameters();
      int size = groups.groups().get(g).expertParallelSize();
      int sharers = shards.size() / Math.max(1, size);
      Map<String, ExpertFiles.LocalParameter> known =
          size == ParamGroups.DENSE ? Map.of() : experts.onRanksOf(size);
      for (int rank = 0; rank < Math.max(1, size); rank++) {
        FlatRow masters =
            FlatRow.masters(
                FlatRow.of(
                    reading, ShardGroups.sharing(shards, size, rank, groups.dataFirst()), g));
        long at = 0;
        for (int place :
            RoundRobin.flatOrder(parameters.size(), groups.roundRobin() ? sharers : 1)) {
          Parameter parameter = parameters.get(place);
          StoredWeight weight =
              size == ParamGroups.DENSE
                  ? weight(parameter.name())
                  : known.get(parameter.name()).weights().get(rank);
          if (!masters.gives(at, weight, false)) {
            throw new RefusedException(
                weight.where(),
                "the masters in the shards, cast to the model's type, do not give this weight. The"
                    + " files do not belong together.");
          }
          at += parameter.elements();
        }
      }
    }
  }

  private StoredWeight weight(String name) {
    return StoredWeight.of(
        reading, file.source(), file.file(), model.root().get("module").get(name));
  }

  private ParamGroups groups(boolean roundRobin, boolean dataFirst) throws IOException {
    List<List<Parameter>> parameters = new ArrayList<>();
    List<Integer> sizes = new ArrayList<>();
    for (int g = 0; g < first.groups(); g++) {
      int size = first.expertParallelSize(g);
      mappings.requireSharers(g, size);
      sizes.add(size);
      parameters.add(size == ParamGroups.DENSE ? dense(g) : List.of());
    }
    boolean mended = mappings.areRight(sizes, dataFirst);
    Set<Integer> taken = new HashSet<>();
    for (int size : new LinkedHashSet<>(sizes)) {
      if (size == ParamGroups.DENSE) {
        continue;
      }
      Map<String, ExpertFiles.LocalParameter> known = experts.onRanksOf(size);
      List<Integer> indices = new ArrayList<>();
      for (int g = 0; g < sizes.size(); g++) {
        if (sizes.get(g) == size) {
          indices.add(g);
        }
      }
      if (mended || size == 1) {
        for (int g : indices) {
          parameters.set(g, recorded(g, size, dataFirst, known));
        }
      } else {
        List<ExpertFiles.LocalParameter> left =
            known.values().stream().filter(p -> !taken.contains(p.layer())).toList();
        List<List<Parameter>> found = searched(indices, size, left, roundRobin, dataFirst, taken);
        for (int i = 0; i < indices.size(); i++) {
          parameters.set(indices.get(i), found.get(i));
        }
      }
    }
    List<ParamGroups.Group> groups = new ArrayList<>();
    for (int g = 0; g < sizes.size(); g++) {
      groups.add(
          new ParamGroups.Group(
              parameters.get(g), sizes.get(g), !mended && sizes.get(g) != ParamGroups.DENSE));
    }
    return new ParamGroups(groups, roundRobin, dataFirst);
  }

  private List<Parameter> dense(int group) {
    return ShardGroups.parameters(shards, group, ParamGroups.DENSE, false).stream()
        .map(row -> shaped(row, module.containsKey(row.name()) ? shape(row.name()) : null))
        .toList();
  }

  private List<Long> shape(String name) {
    return Arrays.stream(module.get(name).shape()).boxed().toList();
  }

  private List<Parameter> recorded(
      int group, int size, boolean dataFirst, Map<String, ExpertFiles.LocalParameter> known) {
    return ShardGroups.parameters(shards, group, size, dataFirst).stream()
        .map(
            row ->
                shaped(row, known.containsKey(row.name()) ? known.get(row.name()).shape() : null))
        .toList();
  }

  /**
   * @param row the parameter as the mappings know it
   * @param shape the shape of its weight, or null if there is none
   */
  private Parameter shaped(Parameter row, List<Long> shape) {
    if (shape == null) {
      throw new RefusedException(
          shards.get(0).file().path(),
          "param_slice_mappings name '%s', which is neither in the module of %s nor in the experts' files beside it. The files do not belong together."
              .formatted(row.name(), file.file().path()));
    }
    Parameter parameter = new Parameter(row.name(), shape, row.group());
    if (parameter.elements() != row.elements()) {
      throw new RefusedException(
          shards.get(0).file().path(),
          "param_slice_mappings of all ranks have %d elements of '%s', its weight has shape %s. The files do not belong together."
              .formatted(row.elements(), row.name(), shape));
    }
    return parameter;
  }

  /**
   * @param left what may be in the groups
   * @param taken gets the mixtures that are in them
   */
  private List<List<Parameter>> searched(
      List<Integer> indices,
      int size,
      List<ExpertFiles.LocalParameter> left,
      boolean roundRobin,
      boolean dataFirst,
      Set<Integer> taken)
      throws IOException {
    int sharers = shards.size() / size;
    int targetSharers = Math.max(1, reading.targetWorldSize() / size);
    // Whose states are whose matters everywhere once experts change their ranks.
    boolean reordered =
        reading.targetExperts().isPresent() || (roundRobin && (sharers > 1 || targetSharers > 1));
    List<ExpertOrder.Group> groups = new ArrayList<>();
    for (int g : indices) {
      List<List<FlatRow>> rows = new ArrayList<>();
      for (int rank = 0; rank < size; rank++) {
        rows.add(FlatRow.of(reading, ShardGroups.sharing(shards, size, rank, dataFirst), g));
      }
      Set<String> names = new LinkedHashSet<>();
      for (Shard shard : ShardGroups.sharing(shards, size, 0, dataFirst)) {
        names.addAll(shard.states().sliceNames(g));
      }
      long elements = FlatRow.masters(rows.get(0)).elements();
      groups.add(
          new ExpertOrder.Group(
              g,
              rows,
              List.copyOf(names),
              roundRobin && sharers > 1,
              reordered ? elements : recordedAt(elements, size, targetSharers)));
    }
    ExpertOrder order = new ExpertOrder(groups, left, roundRobin ? sharers : 1);
    List<List<Parameter>> found = new ArrayList<>();
    for (List<ExpertFiles.LocalParameter> flat : order.find(reading.where())) {
      int g = indices.get(found.size());
      flat.forEach(p -> taken.add(p.layer()));
      List<Parameter> parameters =
          flat.stream().map(p -> new Parameter(p.name(), p.shape(), g)).toList();
      found.add(roundRobin ? RoundRobin.undo(parameters, sharers) : parameters);
    }
    return found;
  }

  /** How many elements of a group the target's mappings will name. */
  private long recordedAt(long elements, int size, int targetSharers) {
    FlatLayout layout =
        new FlatLayout(
            targetSharers * size,
            List.of(new Parameter("", List.of(elements), 0)),
            List.of(new FlatLayout.Group(1, 0, size, targetSharers, targetSharers * size)),
            false);
    long recorded = 0;
    for (int partition = 0; partition < targetSharers; partition++) {
      recorded +=
          layout.recordedExtentsIn(partition * size, 0).stream().mapToLong(e -> e.elements()).sum();
    }
    return recorded;
  }
}
