package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.parallel.Division;
import io.github.reshard.checkpoint.parallel.InfoRewrite;
import io.github.reshard.checkpoint.parallel.Recut;
import io.github.reshard.checkpoint.parallel.TensorDegree;
import io.github.reshard.checkpoint.parallel.TensorRules;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * The file of another recipe, of a run of another number of tensor-parallel ranks.
 *
 * @param of that recipe
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param frozen the same of the frozen parameters, or {@link #NONE_FROZEN}
 * @param from the source rank whose file the template is
 * @param to the rank that it is for
 * @param ranks how many there are
 * @param mpRanks model-parallel ranks of the run, stages of a pipeline among them
 * @param savedRanks tensor-parallel ranks of the source
 * @param division how they cut
 * @param vocabularyMultiple of a padded vocabulary, or 0
 * @param strips whether rows behind the end of a vocabulary go nowhere
 */
public record TensorRecipe(
    TorchRecipe of,
    int model,
    int frozen,
    int from,
    int to,
    int ranks,
    int mpRanks,
    int savedRanks,
    Division division,
    int vocabularyMultiple,
    boolean strips)
    implements TorchRecipe {

  /** The {@code frozen} of a file without frozen parameters. */
  public static final int NONE_FROZEN = -1;

  /** The file of a rank that {@code parts} describes, where no pipeline has stages. */
  public static TensorRecipe of(TorchRecipe recipe, int model, int frozen, TensorParts parts) {
    return of(recipe, model, frozen, parts, 1);
  }

  /** The file of a rank of one of several stages that {@code parts} describes. */
  public static TensorRecipe ofStage(TorchRecipe recipe, int model, TensorParts parts, int stages) {
    return of(recipe, model, NONE_FROZEN, parts, stages);
  }

  private static TensorRecipe of(
      TorchRecipe recipe, int model, int frozen, TensorParts parts, int stages) {
    TensorDegree degree = parts.degree();
    return new TensorRecipe(
        recipe,
        model,
        frozen,
        parts.from(),
        parts.to(),
        degree.ranks(),
        degree.ranks() * stages,
        parts.sources().size(),
        degree.division(),
        degree.vocabularyMultiple().orElse(0),
        degree.strips());
  }

  @Override
  public int template() {
    return of.template();
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    Rewritten rewritten = of.rewrite(template, models, targetWorldSize);
    PickledValue root = PickledValue.root(template.path(), rewritten.root());
    setDegree(root, ranks, mpRanks);
    if (to > 0 && from == 0) {
      // Only global rank 0 records them (runtime/engine.py, _get_shared_params).
      root.findPresent(ModelStates.SHARED_PARAMS)
          .filter(PickledValue::isDict)
          .ifPresent(shared -> shared.entries().list().clear());
    }
    List<PartitionedModel> partitioned = new ArrayList<>(List.of(models.get(model)));
    if (frozen != NONE_FROZEN) {
      partitioned.add(models.get(frozen));
    }
    root.findPresent(TensorChange.INFO)
        .filter(PickledValue::isDict)
        .ifPresent(info -> InfoRewrite.rewrite(info, recuts(template, info, partitioned)));
    if (mpRanks == ranks) {
      setShapes(root, partitioned);
    }
    return rewritten;
  }

  /** A stage of a pipeline lists its own, see {@code StageModelRecipe}. */
  private void setShapes(PickledValue root, List<PartitionedModel> partitioned) {
    Map<String, List<Long>> shapes = new HashMap<>();
    for (PartitionedModel of : partitioned) {
      for (int p = 0; p < of.parameters().size(); p++) {
        shapes.put(of.parameters().get(p).name(), of.target().localTensor(to, p).shape());
      }
    }
    List<PickledValue> lists = new ArrayList<>();
    root.findPresent(ModelStates.PARAM_SHAPES).ifPresent(groups -> lists.addAll(groups.items()));
    root.findPresent(ModelStates.FROZEN_SHAPES).ifPresent(lists::add);
    for (PickledValue list : lists) {
      for (PickledValue.Entry entry : list.children()) {
        List<Long> shape = shapes.get(entry.key());
        if (shape != null && entry.value().node() instanceof PyInstance size) {
          size.setArgs(PyTuple.of(new PyTuple(shape.stream().map(PyInt::of).toList())));
        }
      }
    }
  }

  /**
   * Turns what the first rank's model file says into what that of a run of one rank says.
   *
   * @param root edited in place
   * @param recuts each parameter by its name, joined
   */
  public static void toOneRank(PickledValue root, Map<String, Recut> recuts) {
    setDegree(root, 1, 1);
    root.findPresent(TensorChange.INFO)
        .filter(PickledValue::isDict)
        .ifPresent(info -> InfoRewrite.rewrite(info, recuts));
  }

  private static void setDegree(PickledValue root, int ranks, int mpRanks) {
    replace(Optional.of(root), "mp_world_size", mpRanks);
    replace(root.findPresent("checkpoint_parallel_dimensions"), "tp_degree", ranks);
    DsConfig.ifStored(root).ifPresent(config -> config.setTensorParallelSize(ranks));
  }

  private static void replace(Optional<PickledValue> dict, String key, int number) {
    dict.filter(PickledValue::isDict)
        .filter(in -> in.entries().contains(key))
        .ifPresent(in -> in.entries().replace(key, PyInt.of(number)));
  }

  private Map<String, Recut> recuts(
      TorchFile template, PickledValue info, List<PartitionedModel> partitioned) {
    TensorDegree degree =
        new TensorDegree(
            template.path(),
            TensorRules.ofCheckpoint(info),
            division,
            ranks,
            vocabularyMultiple == 0 ? OptionalInt.empty() : OptionalInt.of(vocabularyMultiple),
            strips);
    Map<String, Recut> recuts = new HashMap<>();
    for (PartitionedModel of : partitioned) {
      add(degree, of.source(), recuts);
    }
    return recuts;
  }

  private void add(TensorDegree degree, ZeroLayout source, Map<String, Recut> recuts) {
    for (int p = 0; p < source.parameters().size(); p++) {
      String name = source.parameters().get(p).name();
      int first = 0;
      while (source.copyOf(first, p) < 0) {
        first += savedRanks; // on to the next stage
      }
      List<List<Long>> shapes = new ArrayList<>();
      for (int rank = 0; rank < savedRanks; rank++) {
        shapes.add(source.localTensor(first + rank, p).shape());
      }
      recuts.put(name, degree.recut(name, shapes));
    }
  }
}
