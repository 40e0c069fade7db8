package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * A model file of ZeRO-3 of a tensor-parallel rank, made of that of another number of ranks.
 *
 * @param template the source rank's file
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param from the tensor-parallel rank of the template
 * @param to the one that it is for
 * @param sharesParameters whether to keep {@code shared_params}
 */
record RecutShardedModelRecipe(int template, int model, int from, int to, boolean sharesParameters)
    implements TorchRecipe {
  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    PartitionedModel partitioned = models.get(model);
    ShardedLayout target = ShardedLayout.of(partitioned.target().ofHolder(to));
    Rewritten rewritten =
        ShardedModelRewrite.rewrite(
            template,
            ShardedLayout.of(partitioned.source().ofHolder(from)),
            target,
            new ShardedLayout(targetWorldSize, List.of(), 0),
            sharesParameters);
    Map<String, Parameter> own = new HashMap<>();
    target.parameters().forEach(parameter -> own.put(parameter.name(), parameter));
    PickledValue shapes =
        PickledValue.root(template.path(), rewritten.root()).get(ModelStates.PARAM_SHAPES);
    for (PickledValue group : shapes.items()) {
      for (PickledValue.Entry entry : group.children()) {
        List<Long> shape = own.get(entry.key()).shape();
        ((PyInstance) entry.value().node())
            .setArgs(PyTuple.of(new PyTuple(shape.stream().map(PyInt::of).toList())));
      }
    }
    return rewritten;
  }
}
