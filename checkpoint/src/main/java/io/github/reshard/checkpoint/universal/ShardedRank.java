package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.format.ComposedTorchFile;
import io.github.reshard.checkpoint.format.ComposedTorchFile.Piece;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.ComposedStore.Composed;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.zero3.ShardedLayout;
import io.github.reshard.checkpoint.zero3.ShardedModelRewrite;
import io.github.reshard.checkpoint.zero3.ShardedReader;
import io.github.reshard.checkpoint.zero3.SubGroups;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;

/** A Universal Checkpoint of ZeRO-3, as one rank would have saved it. */
final class ShardedRank {
  private static final String PARAMS = "params";

  /** What of {@code optimizer_state.pt} is not the optimizer's own. */
  private static final Set<String> LEFT_OUT =
      Set.of(
          UniversalState.INNER,
          OptimizerFile.FLAT_GROUPS,
          UniversalState.PARAM_GROUPS,
          "ds_version",
          "clip_grad");

  private ShardedRank() {}

  static UniversalSource.OneRank of(
      SourceStore store,
      UniversalTensors.Saved shared,
      UniversalTensors tensors,
      int mpRank,
      UniversalTensors.Saved modelFile,
      SortedMap<Integer, FileStat> modelStats,
      Map<String, TensorShares.Share> shares)
      throws IOException {
    FileStat modelStat = modelFile.stat();
    ModelStates model = UniversalSource.model(modelFile);
    int ranks = model.dpWorldSize();
    PickledValue inner = shared.root().get(UniversalState.INNER);
    List<PickledValue> paramGroups = inner.get(UniversalState.PARAM_GROUPS).items();
    List<List<Integer>> numbers = new ArrayList<>();
    for (PickledValue group : paramGroups) {
      numbers.add(group.get(PARAMS).items().stream().map(PickledValue::asInt).toList());
    }
    SubGroups subGroups = SubGroups.of(model, numbers, inner.get(UniversalState.PARAM_GROUPS));
    long size = subGroups.size(model, ranks, () -> 1, note -> {});
    ShardedLayout source = new ShardedLayout(ranks, subGroups.parameters(), size);
    ShardedLayout alone = new ShardedLayout(1, subGroups.parameters(), size);
    ComposedGraph graph = new ComposedGraph(store, shared, tensors, shares);
    PyDict states = new PyDict();
    PyList masters = new PyList();
    PyList groups = (PyList) graph.take(shared, inner.get(UniversalState.PARAM_GROUPS).node());
    for (int g = 0; g < paramGroups.size(); g++) {
      List<PyObject> params = new ArrayList<>();
      for (int bucket : alone.bucketsOf(g)) {
        List<Parameter> parameters =
            alone.parameters().subList(alone.firstOf(bucket), alone.firstOf(bucket + 1));
        ComposedGraph.Flat flat =
            graph.flat("sub-group " + bucket, parameters, alone.bucketElements(bucket), ranks);
        int first = numbers.get(g).get(0);
        PyDict common = graph.common("sub-group " + bucket, saved(inner, first, g), parameters);
        if (common.entries().size() > 0 || flat.types().size() > 1) {
          states.entries().add(PyInt.of(bucket), flat.state(common));
        }
        masters.items().add(flat.tensor(States.MASTER, alone.bucketElements(bucket)));
        params.add(PyInt.of(bucket));
      }
      ((PyDict) groups.get(g)).entries().replace(PARAMS, PyList.of(params));
    }
    PyDict optimizer = new PyDict();
    optimizer.entries().add(new PyStr(UniversalState.STATE), states);
    optimizer.entries().add(new PyStr(UniversalState.PARAM_GROUPS), groups);
    PyDict made = new PyDict();
    for (PyEntries.Entry entry : shared.root().entries()) {
      String key = entry.key() instanceof PyStr name ? name.value() : "";
      if (key.equals(OptimizerFile.PARTITION_COUNT)) {
        made.entries().add(entry.key(), PyInt.of(1));
      } else if (!LEFT_OUT.contains(key)) {
        made.entries().add(entry.key(), graph.take(shared, entry.value()));
      }
    }
    made.entries().add(new PyStr(UniversalState.INNER), optimizer);
    made.entries().add(new PyStr(OptimizerFile.FLAT_GROUPS), masters);
    String directory =
        modelStat.path().substring(0, modelStat.path().length() - modelStat.name().length());
    Composed file =
        graph.file(
            directory
                + UniversalSource.prefix(model)
                + "zero_pp_rank_0_mp_rank_%02d_optim_states.pt".formatted(mpRank),
            FlatRank.wrapped(graph, modelFile, made));
    Set<String> names = new HashSet<>();
    alone.parameters().forEach(parameter -> names.add(parameter.name()));
    return new UniversalSource.OneRank(
        ranks == 1
            ? Optional.empty()
            : Optional.of(model(store, modelStats, modelFile, source, alone)),
        file,
        names);
  }

  /** DeepSpeed keeps the states of the sub-groups of rank 0, this program those of the groups. */
  private static Optional<PickledValue> saved(PickledValue inner, int subGroup, int group) {
    PickledValue states = inner.get(UniversalState.STATE);
    PyObject found = states.entries().get((long) subGroup);
    if (found == null) {
      found = states.entries().get((long) group);
    }
    return found == null
        ? Optional.empty()
        : Optional.of(new PickledValue(inner.file(), "state[" + subGroup + "]", found));
  }

  /** The model file with the frozen pieces joined and the sub-groups of one rank. */
  private static Composed model(
      SourceStore store,
      SortedMap<Integer, FileStat> stats,
      UniversalTensors.Saved first,
      ShardedLayout source,
      ShardedLayout alone)
      throws IOException {
    List<Parameter> frozen = ShardedReader.partitionedFrozen(UniversalSource.model(first));
    Map<Rewritten.Content.PartitionOf, List<Piece>> pieces = new HashMap<>();
    if (!frozen.isEmpty()) {
      ShardedLayout cut = new ShardedLayout(source.worldSize(), frozen, 0);
      for (int p = 0; p < frozen.size(); p++) {
        pieces.put(new Rewritten.Content.PartitionOf(p, States.FROZEN), new ArrayList<>());
      }
      for (int rank = 0; rank < source.worldSize(); rank++) {
        FileStat stat = stats.get(rank);
        if (stat == null) {
          throw new RefusedException(
              first.file().path(),
              "frozen parameters lie in the model files of all %d ranks, and that of rank %d is missing."
                  .formatted(source.worldSize(), rank));
        }
        UniversalTensors.Saved file = UniversalSource.read(store, stat);
        Map<String, PickledValue> fragments = UniversalSource.model(file).frozenFragments();
        for (int p = 0; p < frozen.size(); p++) {
          addPiece(
              store,
              file,
              fragments.get(frozen.get(p).name()),
              frozen.get(p),
              cut.piece(p),
              rank,
              pieces.get(new Rewritten.Content.PartitionOf(p, States.FROZEN)));
        }
      }
    }
    return ComposedGraph.model(
        store,
        first,
        ShardedModelRewrite.rewrite(
            first.file(), source, alone, new ShardedLayout(1, frozen, 0), true),
        pieces);
  }

  private static void addPiece(
      SourceStore store,
      UniversalTensors.Saved file,
      PickledValue fragment,
      Parameter parameter,
      long length,
      int rank,
      List<Piece> into)
      throws IOException {
    long elements = Math.max(0, Math.min(length, parameter.elements() - rank * length));
    if (fragment == null || fragment.tensor().numel() != length) {
      throw new RefusedException(
          file.file().path(),
          "expected a piece of %d elements of the frozen parameter %s, found another."
              .formatted(length, parameter.name()));
    }
    TensorNode tensor = fragment.tensor();
    tensor.requireInBounds(fragment.where());
    int width = tensor.dtype().bytes();
    if (elements == 0) {
      return;
    }
    Piece storage = file.piece(tensor.storageKey());
    into.add(
        storage.bytes() == elements * width
            ? storage
            : ComposedTorchFile.part(
                store, storage, tensor.storageOffset() * width, elements * width));
  }
}
