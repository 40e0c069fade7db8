package io.github.reshard.checkpoint.format;

import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * What one model-parallel rank brings: its parameters, and what its files say beside them, which is
 * the same on all its data-parallel ranks: step, hyper-parameters, loss scale, configuration and
 * the client's state, as Python objects. A file of the target is made of these; a plan keeps which
 * file they stand in and not what they are, so that it stays small.
 *
 * @param mpRank the model-parallel rank
 * @param model the model file of the first data-parallel rank, if there are model files
 * @param optimizers the optimizer file of each data-parallel rank
 * @param reading how an optimizer file is read
 * @param trained index into {@link TrainingState#parameters()} of each set of trained parameters
 * @param frozen the same of the frozen parameters that lie in pieces; others are whole in the model
 *     file
 * @param origin what the reader keeps for the writer of its own family, which may edit the source's
 *     own files then; nobody else looks into it, and it is empty where a part was made of others
 */
public record ModelPart(
    int mpRank,
    Optional<ReadFile> model,
    List<ReadFile> optimizers,
    OptimizerValues.Reading reading,
    List<Integer> trained,
    OptionalInt frozen,
    Optional<Origin> origin) {
  public ModelPart {
    optimizers = List.copyOf(optimizers);
    trained = List.copyOf(trained);
  }

  /** What a reader keeps of a part for the writer of its own family. */
  public interface Origin {}

  /** The data-parallel rank whose files a target rank's are made of. */
  public int templateOf(int rank) {
    return rank < optimizers.size() ? rank : 0;
  }
}
