package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.plan.CastCheck;
import io.github.reshard.checkpoint.plan.Conversion;
import io.github.reshard.checkpoint.plan.Recipe;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.plan.WholeFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.ParameterState;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.SelectedParameters;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.WholeTensors;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.weights.PlannedTensor.Origin;
import io.github.reshard.checkpoint.weights.StoredTensors.Joined;
import io.github.reshard.checkpoint.weights.StoredTensors.Stored;
import io.github.reshard.checkpoint.weights.StoredTensors.Written;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;

/**
 * A plan that writes whole tensors, made from the plan of a checkpoint for its own ranks. It reads
 * only the entries of the source that it takes something from.
 */
final class TensorPlan {
  /** The entry of bytes that belong to no zip entry's payload. */
  private static final int NO_ENTRY = -1;

  private final ReshardPlan of;
  private final List<TargetFile> targets = new ArrayList<>();
  private final List<FileStat> copied = new ArrayList<>();
  private final Map<Integer, SortedMap<Integer, Selected>> selected = new TreeMap<>();
  private final Map<Integer, List<Stored>> stored = new TreeMap<>();
  private final List<Joined> joined = new ArrayList<>();
  private final List<SliceCopy> again = new ArrayList<>();
  private final Map<Place, TreeMap<Long, Long>> taken = new HashMap<>();

  /**
   * @param of the plan of the checkpoint
   */
  TensorPlan(ReshardPlan of) {
    this.of = of;
  }

  /** An entry of a source file. */
  private record Place(int file, int entry) {}

  /** The states of a parameter that are written. */
  private static final class Selected {
    final Map<String, Written> states = new LinkedHashMap<>();
  }

  /** A file whose payload is one run of bytes; its index among the targets. */
  int addFile(String path, long bytes, Recipe recipe, long payload) {
    List<TargetFile.Entry> entries =
        payload < bytes
            ? List.of(new TargetFile.Entry("", payload, bytes - payload))
            : List.<TargetFile.Entry>of();
    targets.add(new TargetFile(path, bytes, recipe, entries));
    return targets.size() - 1;
  }

  /** A file of the source as it is. */
  void copyFile(FileStat stat) {
    copied.add(stat);
  }

  /**
   * Adds a tensor.
   *
   * @param to where it begins in the output
   */
  void add(PlannedTensor tensor, Address to) {
    Written written = new Written(to, tensor.to());
    if (tensor.origin() instanceof Origin.State state) {
      selected
          .computeIfAbsent(state.model(), m -> new TreeMap<>())
          .computeIfAbsent(state.parameter(), p -> new Selected())
          .states
          .put(state.state(), written);
      return;
    }
    if (tensor.origin() instanceof Origin.Parts parts) {
      joined.add(new Joined(tensor, parts, written));
      return;
    }
    Origin.Stored from = (Origin.Stored) tensor.origin();
    long begin = from.address().offset();
    long end = begin + Box.elements(tensor.shape()) * tensor.from().bytes();
    TreeMap<Long, Long> runs =
        taken.computeIfAbsent(
            new Place(from.address().file(), from.address().entry()), place -> new TreeMap<>());
    Map.Entry<Long, Long> before = runs.lowerEntry(end);
    if (before == null || before.getValue() <= begin) {
      if (begin < end) {
        runs.put(begin, end);
      }
      stored
          .computeIfAbsent(from.mpRank(), rank -> new ArrayList<>())
          .add(new Stored(tensor, from.address(), written));
    } else {
      // Another name of the same bytes, or of some of them, which are proven once.
      long bytes = (end - begin) / tensor.from().bytes() * tensor.to().bytes();
      Conversion conversion =
          tensor.from() == tensor.to() ? null : new Conversion(tensor.from(), tensor.to());
      again.add(SliceCopy.derived(from.address(), to, bytes, null, conversion));
    }
  }

  /**
   * The plan.
   *
   * @param notes what the user should know
   */
  ReshardPlan plan(List<String> notes, long partBytes) {
    List<PartitionedModel> models = new ArrayList<>();
    List<SliceCopy> carried = new ArrayList<>(again);
    selected.forEach((m, parameters) -> models.add(model(of.models().get(m), parameters, carried)));
    stored.forEach((mpRank, tensors) -> models.add(StoredTensors.of(mpRank, tensors)));
    if (!joined.isEmpty()) {
      models.add(StoredTensors.joined(joined));
    }
    Sources sources = new Sources(models, carried);
    List<SliceCopy> all = new ArrayList<>();
    carried.forEach(slice -> all.add(sources.numbered(slice)));
    for (FileStat stat : copied) {
      sources.files.add(new SourceFile(stat, List.of(), false));
      int source = sources.files.size() - 1;
      int target = addFile(stat.name(), stat.bytes(), new WholeFile(source), 0);
      if (stat.bytes() > 0) {
        all.add(
            SliceCopy.of(
                new Address(source, NO_ENTRY, 0), new Address(target, 0, 0), stat.bytes(), false));
      }
    }
    return new ReshardPlan(
        of.checkpoint(),
        "",
        of.sourceWorldSize(),
        ReshardPlan.ANY_WORLD_SIZE,
        of.parallelism(),
        sources.files,
        targets,
        models.stream().map(sources::numbered).toList(),
        all,
        List.of(),
        of.evidence(),
        notes,
        partBytes);
  }

  private static PartitionedModel model(
      PartitionedModel from, SortedMap<Integer, Selected> parameters, List<SliceCopy> carried) {
    List<Integer> indices = List.copyOf(parameters.keySet());
    ZeroLayout source =
        indices.size() == from.parameters().size()
            ? from.source()
            : new SelectedParameters(from.source(), indices);
    List<Map<String, DType>> states = new ArrayList<>();
    from.states().forEach(group -> states.add(new LinkedHashMap<>()));
    Map<Partition, Address> targets = new HashMap<>();
    Map<ParameterState, DType> casts = new HashMap<>();
    List<ModuleWeight> weights = new ArrayList<>();
    for (int p = 0; p < indices.size(); p++) {
      Map<String, Written> written = parameters.get(indices.get(p)).states;
      Map<String, DType> types = from.statesOf(indices.get(p));
      ModuleWeight weight = from.weights().get(indices.get(p));
      for (Map.Entry<String, DType> state : types.entrySet()) {
        Written to = written.get(state.getKey());
        if (to == null) {
          continue;
        }
        states.get(source.parameters().get(p).group()).put(state.getKey(), state.getValue());
        targets.put(new Partition(0, p, state.getKey()), to.address());
        if (to.dtype() != state.getValue()) {
          casts.put(new ParameterState(p, state.getKey()), to.dtype());
        }
      }
      boolean claims = weight != null && !weight.isDerived() && written.containsKey(States.MASTER);
      boolean isCast = casts.containsKey(new ParameterState(p, States.MASTER));
      Written module = written.get(States.MODULE);
      if (module == null) {
        weights.add(claims && !isCast ? weight.dropped() : null);
      } else {
        List<Address> to = List.of(module.address());
        boolean moves = weight != null && !weight.isDerived() && weight.dtype() == module.dtype();
        weights.add(new ModuleWeight(module.dtype(), moves ? weight.sources() : List.of(), to));
        isCast = !moves;
      }
      if (claims && isCast) {
        addClaims(from, indices.get(p), weight, carried);
      }
    }
    Map<Partition, Address> sources = new HashMap<>();
    from.sourcePartitions()
        .forEach(
            (partition, address) -> {
              int group = source.groupOf(partition.bucket());
              if (states.get(group).containsKey(partition.state())
                  && !source.extentsIn(partition.rank(), partition.bucket()).isEmpty()) {
                sources.put(partition, address);
              }
            });
    return new PartitionedModel(
        from.mpRank(),
        from.expertRank(),
        source,
        new WholeTensors(source.parameters()),
        states,
        sources,
        targets,
        weights,
        from.whole(),
        casts);
  }

  /** That masters which are written as another type are still those of the module's weights. */
  private static void addClaims(
      PartitionedModel model, int parameter, ModuleWeight weight, List<SliceCopy> claims) {
    DType master = model.statesOf(parameter).get(States.MASTER);
    for (Extent extent : model.source().extentsOf(parameter)) {
      Address partition =
          model
              .sourcePartitions()
              .get(new Partition(extent.rank(), extent.bucket(), States.MASTER));
      CastCheck claim =
          new CastCheck(
              model.parameters().get(parameter).name(),
              extent.parameterStart(),
              master,
              weight.dtype(),
              weight
                  .sources()
                  .get(model.source().holderOf(extent.rank()))
                  .plus(extent.parameterStart() * weight.dtype().bytes()));
      claims.add(
          SliceCopy.compared(
              partition.plus(extent.bucketStart() * master.bytes()),
              extent.elements() * master.bytes(),
              claim));
    }
  }

  /** The files and entries of the source that are read, numbered anew. */
  private final class Sources {
    final List<SourceFile> files = new ArrayList<>();
    private final Map<Integer, Integer> fileNumbers = new HashMap<>();
    private final Map<Place, Integer> entryNumbers = new HashMap<>();

    Sources(List<PartitionedModel> models, List<SliceCopy> carried) {
      SortedMap<Integer, SortedMap<Integer, Boolean>> used = new TreeMap<>();
      for (PartitionedModel model : models) {
        model.sourcePartitions().values().forEach(address -> use(used, address, true));
        for (ModuleWeight weight : model.weights()) {
          if (weight != null) {
            weight.sources().forEach(at -> use(used, at, weight.moves()));
          }
        }
      }
      for (SliceCopy slice : carried) {
        use(used, slice.source(), slice.proves());
        if (slice.cast() != null) {
          use(used, slice.cast().weights(), false);
        }
      }
      used.forEach(
          (file, entries) -> {
            SourceFile from = of.sources().get(file);
            fileNumbers.put(file, files.size());
            List<TorchFile.Entry> kept = new ArrayList<>();
            entries.forEach(
                (entry, proven) -> {
                  if (proven && entry != NO_ENTRY) {
                    entryNumbers.put(new Place(file, entry), kept.size());
                    kept.add(from.entries().get(entry));
                  }
                });
            files.add(new SourceFile(from.stat(), kept, from.hasCrcs()));
          });
    }

    private static void use(
        SortedMap<Integer, SortedMap<Integer, Boolean>> used, Address at, boolean proven) {
      used.computeIfAbsent(at.file(), file -> new TreeMap<>())
          .merge(at.entry(), proven, Boolean::logicalOr);
    }

    private Address numbered(Address at) {
      return at == null
          ? null
          : new Address(
              fileNumbers.get(at.file()),
              entryNumbers.getOrDefault(new Place(at.file(), at.entry()), NO_ENTRY),
              at.offset());
    }

    SliceCopy numbered(SliceCopy slice) {
      return slice.readFrom(
          numbered(slice.source()), slice.cast() == null ? null : numbered(slice.cast().weights()));
    }

    PartitionedModel numbered(PartitionedModel model) {
      Map<Partition, Address> sources = new HashMap<>();
      model.sourcePartitions().forEach((partition, at) -> sources.put(partition, numbered(at)));
      List<ModuleWeight> weights = new ArrayList<>();
      for (ModuleWeight weight : model.weights()) {
        weights.add(
            weight == null
                ? null
                : new ModuleWeight(
                    weight.dtype(),
                    weight.sources().stream().map(this::numbered).toList(),
                    weight.targets(),
                    weight.isDropped()));
      }
      return new PartitionedModel(
          model.mpRank(),
          model.expertRank(),
          model.source(),
          model.target(),
          model.states(),
          sources,
          model.targetPartitions(),
          weights,
          model.whole(),
          model.casts());
    }
  }
}
