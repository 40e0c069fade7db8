package io.github.reshard.checkpoint.template;

import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.Serializable;
import java.util.List;

/**
 * The file that a reshard of a template would have, with other values in its pickle.
 *
 * @param of how the template is resharded
 * @param common what all files share
 */
public record TemplateRecipe(TorchRecipe of, Template common) implements TorchRecipe {
  /**
   * What all files of a template have in common; one object, however many files there are.
   *
   * @param models the template's own, whose layouts its files show
   * @param values what is replaced
   */
  public record Template(List<PartitionedModel> models, TemplateValues values)
      implements Serializable {}

  @Override
  public int template() {
    return of.template();
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> any, int targetWorldSize) {
    Rewritten rewritten = of.rewrite(template, common.models(), targetWorldSize);
    PickledValue root = PickledValue.root(template.path(), rewritten.root());
    if (TemplateValues.isModelFile(root)) {
      common.values().applyToModel(root);
    } else {
      common.values().applyToOptimizer(root, of.optimizer().orElseThrow());
    }
    return rewritten;
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }
}
