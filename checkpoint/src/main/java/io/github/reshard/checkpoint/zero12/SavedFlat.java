package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;

/**
 * What was read of a model-parallel rank of ZeRO-1 or 2.
 *
 * @param model what its model file says
 * @param modelFile that file
 * @param modelSource its index in the plan's sources
 * @param shards one for each data-parallel rank
 * @param groups the param groups
 */
public record SavedFlat(
    ModelStates model,
    TorchFile modelFile,
    int modelSource,
    List<Shard> shards,
    ParamGroups groups) {}
