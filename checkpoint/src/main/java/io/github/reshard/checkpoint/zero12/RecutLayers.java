package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.LayerFiles;
import io.github.reshard.checkpoint.deepspeed.MissingWeights;
import io.github.reshard.checkpoint.deepspeed.TensorChange;
import io.github.reshard.checkpoint.deepspeed.UncutTensors;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** The files of a pipeline's layers for other tensor-parallel ranks. */
final class RecutLayers {
  private final PlanDraft draft;
  private final int index;
  private final PartitionedModel model;
  private final Set<String> buffers;
  private final int savedRanks;
  private final int ranks;
  private final Map<Integer, List<Address>> targets = new HashMap<>();

  /**
   * @param model index of the parameters
   * @param buffers the names of all that is no weight
   * @param savedRanks tensor-parallel ranks of the source
   * @param ranks those of the target
   */
  RecutLayers(PlanDraft draft, int model, Set<String> buffers, int savedRanks, int ranks) {
    this.draft = draft;
    this.index = model;
    this.model = draft.models().get(model);
    this.buffers = buffers;
    this.savedRanks = savedRanks;
    this.ranks = ranks;
  }

  /**
   * Adds them.
   *
   * @throws RefusedException if a file has what is neither a trained weight nor a buffer, or the
   *     ranks have different buffers
   */
  void add() throws IOException {
    for (int layer : LayerFiles.of(draft.state(), 0).keySet()) {
      List<ReadFile> files = new ArrayList<>();
      for (int rank = 0; rank < savedRanks; rank++) {
        files.add(file(layer, rank));
      }
      UncutTensors.requireAlike(
          draft.state(), files, file -> uncut(layer, file), TensorChange.AS_SAVED);
      for (int rank = 0; rank < ranks; rank++) {
        add(layer, files.get(rank < savedRanks ? rank : 0), rank);
      }
    }
    targets.forEach(
        (p, to) -> {
          ModuleWeight weight = model.weights().get(p);
          draft.placeWeight(index, p, new ModuleWeight(weight.dtype(), weight.sources(), to));
        });
  }

  private ReadFile file(int layer, int rank) {
    ReadFile file = LayerFiles.of(draft.state(), rank).get(layer);
    if (file == null) {
      throw new RefusedException(
          draft.state().checkpoint(),
          "layer %d has a file of tensor-parallel rank 0, and none of rank %d."
              .formatted(layer, rank));
    }
    return file;
  }

  /** The trained weights that a file has, by their names in it. */
  private Map<String, Integer> weights(ReadFile file) {
    Map<String, Integer> weights = new LinkedHashMap<>();
    for (int p = 0; p < model.parameters().size(); p++) {
      ModuleWeight weight = model.weights().get(p);
      boolean here =
          weight != null
              && weight.sources().stream()
                  .anyMatch(source -> source != null && source.file() == file.source());
      if (here) {
        String name = model.parameters().get(p).name();
        weights.put(
            MissingWeights.nameInTiedLayer(name).orElse(name.substring(name.indexOf('.') + 1)), p);
      }
    }
    return weights;
  }

  private Map<String, TensorNode> uncut(int layer, ReadFile file) {
    Set<String> trained = weights(file).keySet();
    Map<String, TensorNode> uncut = new LinkedHashMap<>();
    for (PickledValue.Entry entry : file.root().children()) {
      Optional<TensorNode> tensor = entry.value().asTensor();
      if (tensor.isEmpty() || trained.contains(entry.key())) {
        continue;
      }
      boolean isBuffer =
          buffers.stream()
              .anyMatch(
                  name ->
                      name.equals(layer + "." + entry.key())
                          || MissingWeights.nameInTiedLayer(name).equals(Optional.of(entry.key())));
      if (!isBuffer) {
        throw entry
            .value()
            .refused(
                "is neither trained nor a buffer, so that how tensor-parallel ranks share it cannot"
                    + " be told. Leave --targetTensorParallelSize out.");
      }
      uncut.put(entry.key(), tensor.get());
    }
    return uncut;
  }

  private void add(int layer, ReadFile template, int rank) {
    List<LayerRecipe.Weight> weights = new ArrayList<>();
    weights(template)
        .forEach((key, p) -> weights.add(new LayerRecipe.Weight(key, p, holder(p, rank))));
    TorchRecipe recipe = new LayerRecipe(template.source(), index, weights);
    TorchTarget.Pickled content = draft.pickled(recipe, template);
    PlanDraft.Written written =
        draft.addFile(
            draft.inTag("layer_%02d-model_%02d-model_states.pt".formatted(layer, rank)),
            recipe,
            content,
            template);
    for (int s = 0; s < content.storages().size(); s++) {
      if (content.storages().get(s).content() instanceof Rewritten.Content.Weight weight) {
        place(weight.parameter(), rank, written.storages().get(s));
      }
    }
  }

  /** The first stage that has it is the one whose weight is written. */
  private int holder(int parameter, int rank) {
    int first = 0;
    while (model.target().copyOf(first, parameter) < 0) {
      first += ranks;
    }
    return first + rank;
  }

  private void place(int parameter, int rank, Address begin) {
    int holder = holder(parameter, rank);
    targets
        .computeIfAbsent(
            parameter,
            p -> new ArrayList<>(Collections.nCopies(model.target().holders(), (Address) null)))
        .set(holder, begin);
    EditedFlat.addRowsBehind(
        draft,
        model.target().localTensor(holder, parameter),
        model.weights().get(parameter).dtype(),
        begin);
  }
}
