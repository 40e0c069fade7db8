package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;
import java.util.Optional;

/**
 * The file of another recipe with dicts and numbers in the place of DeepSpeed's own objects.
 *
 * @param of that recipe
 */
public record PlainObjectsRecipe(TorchRecipe of) implements TorchRecipe {
  @Override
  public int template() {
    return of.template();
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    return PlainObjects.in(template.path(), of.rewrite(template, models, targetWorldSize));
  }

  @Override
  public Optional<OptimizerValues.Reading> optimizer() {
    return of.optimizer();
  }
}
