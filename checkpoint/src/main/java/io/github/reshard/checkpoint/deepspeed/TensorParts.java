package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.parallel.TensorDegree;
import io.github.reshard.checkpoint.state.ParameterSet;
import java.util.List;

/**
 * Where a tensor-parallel rank of the target comes from.
 *
 * @param sources the tensor-parallel ranks as they were read
 * @param sets their trained parameters, by rank
 * @param degree how these are joined and cut
 * @param from whose files say what is not cut
 * @param to the rank that it is
 */
public record TensorParts(
    List<ModelPart> sources, List<ParameterSet> sets, TensorDegree degree, int from, int to)
    implements ModelPart.Origin {
  public TensorParts {
    sources = List.copyOf(sources);
    sets = List.copyOf(sets);
  }
}
