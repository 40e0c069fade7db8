package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyPersistentId;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.Serializable;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * The file of a pipeline's layer for a tensor-parallel rank that has other parts of its weights.
 *
 * @param template the source's file
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param weights those of its tensors that are trained
 */
record LayerRecipe(int template, int model, List<Weight> weights) implements TorchRecipe {
  /**
   * A weight.
   *
   * @param key its name in the file
   * @param parameter its index in the model
   * @param holder whose local tensor of it the file has
   */
  record Weight(String key, int parameter, int holder) implements Serializable {}

  LayerRecipe {
    weights = List.copyOf(weights);
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    PyObject graph = template.parse().root();
    PickledValue root = PickledValue.root(template.path(), graph);
    Map<String, Rewritten.Storage> moved = new HashMap<>();
    Set<String> old = new HashSet<>();
    for (Weight weight : weights) {
      PickledValue value = root.get(weight.key());
      TensorNode tensor = value.tensor();
      LocalTensor local =
          models.get(model).target().localTensor(weight.holder(), weight.parameter());
      old.add(tensor.storageKey());
      String key = "weight " + weight.parameter();
      StorageKeys.move(tensor, key, local.elements());
      tensor.setGeometry(0, local.shape().stream().mapToLong(Long::longValue).toArray());
      moved.put(
          key,
          new Rewritten.Storage(
              key,
              local.elements() * tensor.dtype().bytes(),
              new Rewritten.Content.Weight(weight.parameter())));
    }
    for (PyPersistentId reference : StorageKeys.references(graph)) {
      if (old.contains(StorageNode.of(reference).orElseThrow().key())) {
        throw new RefusedException(
            template.path(),
            "a tensor shares its elements with a trained weight and is none: what it is on other"
                + " tensor-parallel ranks cannot be told.");
      }
    }
    return StorageList.of(template, graph, moved);
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }
}
