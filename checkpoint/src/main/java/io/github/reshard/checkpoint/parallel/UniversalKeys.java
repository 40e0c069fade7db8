package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * What DeepSpeed's converter says of a parameter beside its elements, so that tensor-parallel ranks
 * that load it can cut it (DeepSpeed 0.19.8, checkpoint/ds_to_universal.py, {@code
 * merge_tp_slices}).
 *
 * @param catDim {@code cat_dim}: the dimension along which ranks have parts, if they have
 * @param alike {@code param_n_sub_params}: how many matrices of the same shape lie in it
 * @param fused {@code sub_param_shape}: the entry of {@code parameter_with_sub_params}, if there is
 *     one; its elements along the dimension that is cut are of {@code matrices}
 * @param matrices how many matrices {@code fused} is of
 * @param vocabulary {@code vocab_tensor}: whether rows behind its end were left out
 */
public record UniversalKeys(
    OptionalInt catDim, int alike, Optional<PickledValue> fused, int matrices, boolean vocabulary) {
  /** Ranks have rows. */
  public static final UniversalKeys ROWS = cut(0, 1);

  /** Each rank has all of it. */
  public static final UniversalKeys WHOLE =
      new UniversalKeys(OptionalInt.empty(), 1, Optional.empty(), 1, false);

  static UniversalKeys cut(int dimension, int alike) {
    return new UniversalKeys(OptionalInt.of(dimension), alike, Optional.empty(), 1, false);
  }

  static UniversalKeys fused(PickledValue said, CutRule.Split split) {
    return new UniversalKeys(
        OptionalInt.empty(), 1, Optional.of(said), split.fused().matrices(), false);
  }

  UniversalKeys ofVocabulary(boolean is) {
    return new UniversalKeys(catDim, alike, fused, matrices, is);
  }
}
