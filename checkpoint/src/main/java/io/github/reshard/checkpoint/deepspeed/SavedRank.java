package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.TorchRecipe;
import java.io.IOException;
import java.util.function.UnaryOperator;

/** A model-parallel rank whose own files can be edited, whichever family of stages they are of. */
public interface SavedRank extends ModelPart.Origin {
  /** Where the file of a target rank goes, by its template's name. */
  @FunctionalInterface
  interface Naming {
    String path(String templateName, int rank);
  }

  /**
   * Adds the files of the draft's ranks, at the stage that these are of, made of this rank's own.
   *
   * @param part whose origin this is
   * @param form in which optimizer files are wanted
   */
  void edit(PlanDraft draft, ModelPart part, UnaryOperator<TorchRecipe> form, Naming naming)
      throws IOException;
}
