package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.plan.Recipe;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.safetensors.SafetensorsLayout;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import java.util.List;
import java.util.Map;

/**
 * A safetensors file: its header follows from names, types and shapes, all else is payload.
 *
 * @param tensors what it holds
 * @param metadata what it says beside them
 */
record SafetensorsRecipe(List<SafetensorsLayout.Tensor> tensors, Map<String, String> metadata)
    implements Recipe {
  SafetensorsRecipe {
    tensors = List.copyOf(tensors);
    metadata = Map.copyOf(metadata);
  }

  SafetensorsLayout layout() {
    return SafetensorsLayout.of(tensors, metadata);
  }

  @Override
  public List<ByteSegment> skeleton(
      ReshardPlan plan, SourceStore store, int target, List<Integer> crcs) {
    return List.of(new ByteSegment(0, layout().header()));
  }
}
